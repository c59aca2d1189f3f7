"""Fixtures for all tests: the digits, the real CIFAR-10 copy where there is one, and a cache that is thrown away."""

import contextlib
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rounding
import torch
from hypothesis import settings

from ensemble_bench.data import DataSource, open_source

# A fixture of its own file: it is of use to the tests of pages alone.
pytest_plugins = ("chromium",)

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
# Where tests call a network, and so may come out otherwise on another processor …
NETWORK = (
    "adapters",
    "attacks",
    "evaluation",
    "models",
    "server/test_worker.py",
    "submissions",
    "registry/test_cards.py",
    "registry/test_plugins.py",
    "test_toolkit_table.py",
    "training",
)
# … but for these, which compute nothing that rounding could change, or nothing at all.
NO_NETWORK = {
    "attacks/test_randomness.py",
    "attacks/test_suites.py",
    "evaluation/test_journal.py",
    "models/test_cost.py",
    "training/test_batches.py",
    "training/test_choices.py",
}

# The models under test are tiny: more threads only wait for each other (on a busy machine, minutes for seconds).
# OMP_NUM_THREADS asks for more: a test must pass under any number.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

# Property tests draw the same examples in every run, whatever else the machine does meanwhile.
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that call a network, by their place, so that a new one is among them unasked."""
    for item in items:
        module = item.path.relative_to(TESTS).as_posix()
        if module.startswith(NETWORK) and module not in NO_NETWORK:
            item.add_marker("network")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep tests (and the commands that they start) away from the user's cache and data folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENSEMBLE_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("ENSEMBLE_BENCH_DATA", raising=False)
        patch.delenv("COLUMNS", raising=False)  # pytest-xdist sets it, and what is printed would wrap
        yield


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Let no test depend on those that ran before it in the same process."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _processor() -> Iterator[None]:
    """Round in another way where TEST_ROUNDING says so (see rounding.py)."""
    with rounding.another_processor(rounding.SEED) if rounding.SEED else contextlib.nullcontext():
        yield


@pytest.fixture(scope="session")
def digits() -> DataSource:
    """The embedded digits."""
    return open_source("digits")


@pytest.fixture(scope="session")
def cifar10_jpeg_dir() -> Path:
    """Folder of the JPEG copy of CIFAR-10 (50,000 + 10,000 images as hub parquet); skips where it is absent."""
    folder = ROOT.parent / "shared" / "data" / "cifar10-jpeg"
    if not folder.is_dir():
        pytest.skip("no real CIFAR-10 here: ../shared/data/cifar10-jpeg is absent")
    return folder


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Where a shell started the tests in the background, they and what they start ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
