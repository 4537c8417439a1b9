"""What every test runs under: one thread, no network, and a store of its own that is thrown away."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Read once, when transformers and errata are first imported: so before any test module is.
_SHELF = tempfile.TemporaryDirectory(prefix="errata-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_HOME"] = f"{_SHELF.name}/huggingface"
os.environ["XDG_CACHE_HOME"] = f"{_SHELF.name}/cache"
os.environ["ERRATA_STORE"] = f"{_SHELF.name}/store"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest  # noqa: E402
import torch  # noqa: E402

# Tiny tensors gain nothing from a second thread, and on busy cores threads that wait for each other cost minutes.
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def shelf() -> Iterator[str]:
    """The throw-away folder that holds this session's store and caches."""
    yield _SHELF.name
    _SHELF.cleanup()


@pytest.fixture(autouse=True)
def same_seed() -> None:
    """Each test starts from one seed, whatever ran before it."""
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need real models are skipped unless they are named."""
    if "ERRATA_REAL" not in os.environ:
        skip = pytest.mark.skip(reason="set ERRATA_REAL to a folder of real models")
        for item in items:
            if item.get_closest_marker("real"):
                item.add_marker(skip)


@pytest.fixture(scope="session")
def real_models() -> Path:
    """The folder of real models, for tests that are marked as `real`."""
    return Path(os.environ["ERRATA_REAL"])
