"""Processes of their own for tests, forked from a server that has imported everything once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["accelerate", "tests.editing", "errata.cli.app"])


def started(work: Callable[..., None], *given: Any) -> tuple[BaseProcess, Connection]:
    """A process at `work(tell, *given)`, and where to receive what it tells."""
    here, there = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_one_thread, args=(work, there.send, *given))
    process.start()
    there.close()
    return process, here


def answer(work: Callable[..., None], *given: Any) -> Any:
    """The first thing that `work(tell, *given)` tells, in a process of its own that must end well."""
    process, told = started(work, *given)
    found = told.recv()
    process.join()
    assert process.exitcode == 0
    return found


def _one_thread(work: Callable[..., None], *given: Any) -> None:
    torch.set_num_threads(1)
    work(*given)
