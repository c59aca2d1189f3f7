"""Weights of published models: random ones for the asking, and whether a download can work at all."""

import contextlib
import importlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from ensemble_bench.data import DataSource
from ensemble_bench.errors import CheckpointError, InvalidValueError

RANDOM = "random"
PATIENCE = 5.0
"""Seconds that a host has for an answer. The libraries themselves try again and again, for a minute or without end."""


def split_random(source: str, name: str) -> tuple[str, bool]:
    """The name in "NAME" or "NAME?random", and whether random weights are asked for; InvalidValueError otherwise."""
    name, mark, option = name.partition("?")
    if mark and option != RANDOM:
        raise InvalidValueError(f"{source}:{name}?{option}: expected ?{RANDOM} behind the name, for random weights")
    return name, bool(mark)


def check_classes(source: str, told: int, data: DataSource | None) -> None:
    """Raise InvalidValueError unless a model of so many classes is for `data` (None: any)."""
    if data is not None and told != len(data.classes):
        raise InvalidValueError(f"{source} tells {told} classes apart, the data set has {len(data.classes)}")


@contextlib.contextmanager
def seeded() -> Iterator[None]:
    """Weights drawn in the block are the same every time; the global generator stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def answers(url: str) -> bool:
    """Whether the host of an address answers anything within `PATIENCE` seconds."""
    found: list[int] = []

    def ask() -> None:
        httpx = importlib.import_module("httpx")  # when it is needed: it takes as long as a small model
        with contextlib.suppress(Exception):  # no route, no name, a refusal, a proxy's address that makes no sense
            found.append(httpx.head(url, timeout=PATIENCE).status_code)

    # In a thread, as a name server that is silent is waited for without any limit of httpx.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE)
    return bool(found)


@contextlib.contextmanager
def hub() -> Iterator[str]:
    """Where the Hugging Face hub does not answer, only its cache counts in the block, at once; yields its address.

    Yields an empty text where it answers.
    """
    constants: Any = importlib.import_module("huggingface_hub.constants")
    before, address = constants.HF_HUB_OFFLINE, str(constants.ENDPOINT)
    constants.HF_HUB_OFFLINE = before or not answers(address)
    try:
        yield address if constants.HF_HUB_OFFLINE else ""
    finally:
        constants.HF_HUB_OFFLINE = before


def check_download(source: str, url: str) -> None:
    """Raise CheckpointError where the file at `url` is neither in torch's cache nor to be had now."""
    cached = Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(url).path).name)
    if not cached.exists() and not answers(url):
        raise CheckpointError(unreachable(source, url, where=str(cached.parent)))


def unreachable(source: str, address: str, *, where: str = "the cache") -> str:
    """What to say of weights that cannot be downloaded now."""
    host = urlsplit(address).netloc or address
    return (
        f"{source}: its weights are not in {where}, and {host} does not answer: try again with a network, or take "
        f"{source}?{RANDOM} for random weights"
    )
