"""Fixtures for all tests: the digits, the real CIFAR-10 copy where there is one, and a cache that is thrown away."""

import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rounding
import torch

from ensemble_bench.data import DataSource, open_source

ROOT = Path(__file__).resolve().parents[1]

# The models under test are tiny: more threads only wait for each other (on a busy machine, minutes for seconds).
# OMP_NUM_THREADS asks for more: a test must pass under any number.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep tests (and the commands that they start) away from the user's cache and data folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENSEMBLE_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("ENSEMBLE_BENCH_DATA", raising=False)
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
