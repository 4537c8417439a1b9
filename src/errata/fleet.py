"""Fleet: the processes that share one run. Splits items over ranks, gathers, sums; nobody waits for the dead.

Every rank runs the same program and asks the fleet for the same things in the same order. Honest ranks may be
minutes apart, so no rank enters a collective blindly: all meet first, in a key-value store, while a thread of each
rank gives signs of life there. A rank that is silent for `limit` seconds, or that said it failed, makes every other
raise FleetError, wherever it is. What was computed is in the store; the next run goes on from there.

Tensors travel between hosts' memories (gloo), so the same path serves CPUs and any accelerator.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from itertools import count
from time import monotonic, sleep
from types import FrameType, TracebackType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor

from errata.errors import FleetError

Key = TypeVar("Key")
Tensors = dict[str, Tensor]

BEAT, LIMIT = 2.0, 30.0
"""Seconds between signs of life, and of silence after which a rank is taken for dead."""
START = 300.0
"""Seconds in which all ranks must have started."""
CHUNK = 1 << 26
"""Bytes of one collective, so that each ends soon if all ranks are well."""
LEFT = "left"
_runs = count()


class Fleet:
    """The ranks of one run, this one among them. A fleet of one does everything itself and waits for nobody."""

    def __init__(self, rank: int = 0, size: int = 1, line: Line | None = None) -> None:
        self.rank, self.size, self._line = rank, size, line

    @classmethod
    def solo(cls) -> Fleet:
        """One process: the default everywhere."""
        return cls()

    @classmethod
    def here(cls, limit: float = LIMIT, beat: float = BEAT) -> Fleet:
        """The fleet that `accelerate launch` or torchrun has started this process in; of one if none has.

        Use it in a `with`, which tells the others how this rank ended. Raises FleetError if they do not all start.
        """
        if not any(int(os.environ.get(name, "1")) > 1 for name in ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE")):
            return cls.solo()
        from accelerate import PartialState

        try:
            cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true") or not torch.cuda.is_available()
            state = PartialState(cpu=cpu, timeout=timedelta(seconds=START))
            group = dist.new_group(backend="gloo", timeout=timedelta(seconds=max(limit, BEAT)))
            line = Line(state.process_index, state.num_processes, group, limit, beat)
        except (RuntimeError, OSError) as error:
            raise FleetError(f"the ranks of this run did not find each other: {error}") from error
        return cls(state.process_index, state.num_processes, line)

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._line is not None:
            well = error is None or (isinstance(error, SystemExit) and not error.code)
            self._line.leave(None if well else error)

    @property
    def leads(self) -> bool:
        """Whether this rank is the one that solves, prints and writes."""
        return self.rank == 0

    def part(self, n: int) -> list[int]:
        """This rank's share of n items: every size-th; empty if there are more ranks than items."""
        return list(range(self.rank, n, self.size))

    def owners(self, had: Sequence[int], n: int) -> tuple[list[int], list[int]]:
        """Which rank gives each of n items, and which items no rank has.

        An item comes from the lowest rank that `had` it, so that ranks may have a store in common or not; those
        that nobody has are dealt out in turn.
        """
        owner: dict[int, int] = {}
        for rank, items in enumerate(self._exchange_json("owners", list(had))):
            for i in items:
                owner.setdefault(i, rank)
        missing = [i for i in range(n) if i not in owner]
        owner |= {i: at % self.size for at, i in enumerate(missing)}
        return [owner[i] for i in range(n)], missing

    def rows(self, mine: Sequence[int], tensors: Mapping[Key, Tensor]) -> dict[Key, Tensor]:
        """From each rank the rows [its item, ...] of its items; on every rank the rows of all, in the items' order.

        `mine`: the items this rank's rows are of, each item on one rank. All ranks name the same keys in the same
        order. Values are equal on all ranks, on the device of the rank's own.
        """
        if self.size == 1:
            return dict(tensors)
        sent = {str(i): tensor for i, tensor in enumerate(tensors.values())} if mine else {}
        parts = self._exchange("rows", sent | {"of": torch.tensor(mine, dtype=torch.long)})
        order = torch.cat([part["of"] for part in parts]).argsort()
        full = [part for part in parts if len(part["of"])]
        return {
            key: torch.cat([part[str(i)] for part in full])[order].to(tensor.device) if full else tensor
            for i, (key, tensor) in enumerate(tensors.items())
        }

    def gather(self, mine: Mapping[int, Any]) -> list[Any]:
        """The JSON values that all ranks hold by item, in the items' order."""
        parts = self._exchange_json("answers", [[i, value] for i, value in mine.items()])
        return [value for _, value in sorted((pair for part in parts for pair in part), key=lambda pair: int(pair[0]))]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of all ranks' tensors of one shape, on every rank."""
        if self._line is None:
            return tensor
        total = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        self._line.collective("sum", lambda group: _in_chunks(total, lambda part: dist.all_reduce(part, group=group)))
        return total.to(tensor.device)

    def lead(self, make: Callable[[], Mapping[str, Tensor]]) -> Tensors:
        """What `make` gives on the leading rank, on every rank, bit for bit; the others do not call it."""
        made = dict(make()) if self.leads else {}
        if self._line is None:
            return made
        sent = self._line.broadcast("lead", _packed(made), 0)
        return made if self.leads else load(sent)

    def tell(self, make: Callable[[], Any]) -> Any:
        """The same for JSON."""
        made = make() if self.leads else None
        if self._line is None:
            return made
        return json.loads(self._line.broadcast("tell", json.dumps(made).encode(), 0))

    def regroup(self, error: BaseException) -> None:
        """Go on together after what failed on some rank has been dropped on all of them.

        Makes the others raise FleetError, and returns when all have come here. Raises FleetError if one never will.
        """
        if self._line is not None:
            self._line.regroup(error)

    def _exchange(self, what: str, mine: Tensors) -> list[Tensors]:
        if self._line is None:
            return [mine]
        return [load(part) for part in self._line.exchange(what, _packed(mine))]

    def _exchange_json(self, what: str, mine: Any) -> list[Any]:
        if self._line is None:
            return [mine]
        return [json.loads(part) for part in self._line.exchange(what, json.dumps(mine).encode())]


SOLO = Fleet.solo()


class Line:
    """What connects this rank to the others: a group for collectives, a store to meet in, a thread that shows life."""

    def __init__(self, rank: int, size: int, group: Any, limit: float, beat: float) -> None:
        self.rank, self.size, self.group, self.limit, self.beat = rank, size, group, limit, beat
        run = next(_runs)
        self.store, self._own = _meeting_place(run), _meeting_place(run)  # each serves one thread at a time
        self.epoch = self.number = 0
        self.trouble: str | None = None
        self._lost = self._told = self._ending = self._leaving = False
        self._lock, self._done = threading.Lock(), threading.Event()
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._before = signal.signal(signal.SIGTERM, self._on_signal)
        self.store.set(self._beat_of(rank), "0")
        self.meet("start", START)
        self._thread = threading.Thread(target=self._live, name="fleet", daemon=True)
        self._thread.start()

    # -- together ------------------------------------------------------------------------------------------

    def meet(self, what: str, within: float | None = None) -> None:
        """Wait until all ranks are here. Raises FleetError if one cannot come, or is somewhere else."""
        began, pause, key = monotonic(), 0.0005, f"{self.epoch}/{self.number}"
        self.number += 1
        try:
            said = self.store.compare_set(f"{key}/what", "", what).decode()
            if said != what:
                raise FleetError(f"rank {self.rank} is at {what!r} where another is at {said!r}: {ASTRAY}")
            arrived = self.store.add(f"{key}/arrived", 1)
            while arrived < self.size:
                self.check()
                if within is not None and monotonic() - began > within:
                    raise FleetError(f"only {arrived} of {self.size} ranks came to {what!r} in {within:.0f} s")
                sleep(pause)
                pause = min(2 * pause, 0.05)
                arrived = self.store.add(f"{key}/arrived", 0)
        except RuntimeError as error:
            raise FleetError(self.trouble or GONE) from error

    def check(self) -> None:
        """Raises FleetError if another rank is lost or has failed."""
        if self.trouble is not None:
            self._told = True
            raise FleetError(self.trouble)

    def collective(self, what: str, work: Callable[[Any], object]) -> None:
        """Meet, then do what all ranks do together. Raises FleetError if one is lost in the middle of it."""
        self.meet(what)
        try:
            work(self.group)
        except RuntimeError as error:
            until = monotonic() + self.limit + 2 * self.beat
            while self.trouble is None and monotonic() < until:
                sleep(self.beat / 10)
            raise FleetError(self.trouble or f"{what!r} was cut off: {error}") from error

    def broadcast(self, what: str, sent: bytes, source: int) -> bytes:
        """The bytes of one rank, on every rank."""
        return self._sent(what, sent, [source])[0]

    def exchange(self, what: str, sent: bytes) -> list[bytes]:
        """The bytes of every rank, on every rank."""
        return self._sent(what, sent, range(self.size))

    def _sent(self, what: str, mine: bytes, sources: Sequence[int]) -> list[bytes]:
        found: list[bytes] = []

        def send(group: Any) -> None:
            lengths = torch.zeros(self.size, dtype=torch.long)
            lengths[self.rank] = len(mine)
            dist.all_reduce(lengths, group=group)
            for source in sources:
                buffer = bytearray(mine if self.rank == source else int(lengths[source]))
                whole = torch.frombuffer(buffer, dtype=torch.uint8)
                _in_chunks(whole, lambda part: dist.broadcast(part, group_src=source, group=group))  # noqa: B023
                found.append(bytes(buffer))

        self.collective(what, send)
        return found

    def regroup(self, error: BaseException) -> None:
        """See Fleet.regroup."""
        self._told = True
        if self._lost:
            raise FleetError(self.trouble or GONE) from error
        with self._lock:
            self._fail(error)
            self.epoch, self.number, self.trouble = self.epoch + 1, 0, None
            self._told = False
        self.meet("regroup")

    def leave(self, error: BaseException | None) -> None:
        """The end of this rank. If all is well all end together; if not, the others are told why."""
        self._told = True
        try:
            with suppress(RuntimeError, FleetError):
                if error is None:
                    self._ending = True
                    self.meet("end")
                    self._leaving = True
                else:
                    self._leaving = True
                    self._fail(error)
            self._done.set()
            self._thread.join(self.beat + 1)
            with suppress(RuntimeError):
                self.store.set(self._beat_of(self.rank), LEFT)
                if self.rank == 0:  # the store may end with this process
                    self._see_off(self.limit if error is None else 3 * self.beat)
        finally:
            if self._main:
                signal.signal(signal.SIGTERM, self._before)

    def _see_off(self, seconds: float) -> None:
        until = monotonic() + seconds
        while monotonic() < until and set(self._beats(self.store)) != {LEFT}:
            sleep(0.02)

    # -- signs of life -------------------------------------------------------------------------------------

    def _live(self) -> None:
        """Show that this rank lives, and listen to the others, until told to stop."""
        heard, seen, beaten = monotonic(), [("", 0.0)] * self.size, 0
        while not self._done.wait(self.beat):
            now, beaten = monotonic(), beaten + 1
            slept = now - heard > self.beat + self.limit / 2  # then others' silence may have been this rank's
            heard, epoch = now, self.epoch
            try:
                self._own.set(self._beat_of(self.rank), str(beaten))
                beats, failure = self._beats(self._own), self._failure(self._own, epoch)
            except RuntimeError:
                self._alarm(GONE, lost=True)
                return
            if failure:
                self._alarm(failure, epoch=epoch)
            for rank, beat in enumerate(beats):
                if slept or beat != seen[rank][0]:
                    seen[rank] = beat, now
                elif rank != self.rank and beat != LEFT and now - seen[rank][1] > self.limit:
                    self._alarm(f"rank {rank} has been silent for {now - seen[rank][1]:.0f} s: {SILENT}", lost=True)
                if beat == LEFT and not (rank == self.rank or failure or self._ending):
                    self._alarm(f"rank {rank} has ended while rank {self.rank} has not: {ASTRAY}", lost=True)

    def _alarm(self, trouble: str, *, lost: bool = False, epoch: int | None = None) -> None:
        """Note what has happened, and make the main thread raise it wherever it is."""
        with self._lock:
            if self.trouble is not None or self._leaving or self._done.is_set() or epoch not in (None, self.epoch):
                return
            self.trouble, self._lost = trouble, lost
            if self._main:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)  # wakes a sleeping call

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """SIGTERM: of a launcher that ends all ranks because one failed, or this rank's own alarm. Raised once."""
        if self._told:
            return
        self._told = True
        with suppress(RuntimeError):
            self.trouble = self.trouble or self._failure(self.store, self.epoch)
        raise FleetError(self.trouble or STOPPED)

    def _fail(self, error: BaseException) -> None:
        """Say in the store that this rank failed, unless another did so before."""
        with suppress(RuntimeError):
            self.store.compare_set(f"{self.epoch}/failed", "", f"{self.rank} {type(error).__name__}: {error}")

    def _failure(self, store: Any, epoch: int) -> str | None:
        """What another rank said of its failure."""
        if not store.check([f"{epoch}/failed"]):
            return None
        rank, _, why = store.get(f"{epoch}/failed").decode().partition(" ")
        return None if int(rank) == self.rank else f"rank {rank} failed: {why}"

    def _beats(self, store: Any) -> list[str]:
        return [value.decode() for value in store.multi_get([self._beat_of(rank) for rank in range(self.size)])]

    @staticmethod
    def _beat_of(rank: int) -> str:
        return f"beat/{rank}"


KEPT = "What this run has computed so far is in the store; start it again and it goes on from there."
SILENT = f"its process was killed, its machine is gone, or it hangs. {KEPT}"
GONE = f"the meeting place of the ranks is gone: rank 0 or the launcher has ended. {KEPT}"
STOPPED = f"told to stop, which launchers do when another rank has ended: see their report. {KEPT}"
ASTRAY = "the ranks no longer run the same program on the same input. Give all of them the same files and options."


def _meeting_place(run: int) -> Any:
    """A new connection to the store that the launcher's environment names; `run`: which fleet of this process it is."""
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        timeout=timedelta(seconds=START),
        wait_for_workers=False,
    )
    return dist.PrefixStore(f"errata/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{run}", store)


def _packed(tensors: Mapping[str, Tensor]) -> bytes:
    """Safetensors bytes; every tensor in memory of its own, which that format asks for."""
    return save({name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()})


def _in_chunks(tensor: Tensor, work: Callable[[Tensor], object]) -> None:
    for part in tensor.view(-1).split(max(1, CHUNK // tensor.element_size())):
        work(part)
