"""Bundles for tests: an honest one of a small digits model, and ways to spoil it."""

import functools
import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from small_models import ARCHITECTURE, trained

from ensemble_bench.evaluation.runner import evaluate_checkpoints
from ensemble_bench.files import sha256_bytes
from ensemble_bench.models import checkpoint
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.records.statistics import wilson
from ensemble_bench.submissions.bundling import bundle
from ensemble_bench.submissions.format.bundle import Bundle, unpack

SUITE, N = "ifgsm5+margin10", 60
META = {
    "recipe": "singleadv",
    "preset": "tiny",
    "dataset": "digits",
    "seed": 0,
    "seeds": [0],
    "checkpoint": "best",
    "threat": {"norm": "linf", "eps": 32 / 255},
}
Files = dict[str, bytes]


def make_run(folder: Path, model: Ensemble | None = None, *, suites: tuple[str, ...] = (SUITE,)) -> Path:
    """A run with a checkpoint and its records on 60 digits."""
    folder.mkdir(parents=True)
    checkpoint.save(folder / "best.safetensors", model or trained(), ARCHITECTURE, META)
    for suite in suites:
        evaluate_checkpoints([folder], suite=suite, n=N)
    return folder


@functools.lru_cache
def _scratch() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory()  # kept in the cache, and so until the tests end


@functools.lru_cache
def honest() -> Path:
    """A .zip that claims what was measured."""
    scratch = Path(_scratch().name)
    return bundle(make_run(scratch / "mine"), out=scratch / "mine.zip")


@functools.lru_cache
def opened() -> Bundle:
    """The honest bundle, unpacked."""
    return unpack(honest(), Path(_scratch().name) / "opened")


def files_of(path: Path) -> Files:
    """Content of a bundle's files by name."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(files: Files, path: Path) -> Path:
    """Write files as a .zip."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def edited(files: Files, name: str, change: Callable[[Any], object]) -> Files:
    """The files with the JSON of one changed in place."""
    values = json.loads(files[name])
    change(values)
    return files | {name: json.dumps(values).encode()}


def scored(key: str, count: int) -> dict[str, Any]:
    """A score of 60 images, its fraction and interval those of the count."""
    low, high = wilson(count, N)
    return {key: count, "n": N, "accuracy": count / N, "ci_low": low, "ci_high": high}


def claiming(files: Files, **scores: dict[str, Any]) -> Files:
    """The files with other scores in their claim, and as many images that it says withstood the attacks."""

    def change(values: dict[str, Any]) -> None:
        (claim,) = values["claims"]
        claim.update(scores)
        letters = "".join(claim["outcomes"])
        letters = turned(letters, "w", N - claim["clean"]["correct"])
        claim["outcomes"] = [turned(letters, "s", claim["robust"]["robust"])]

    return edited(files, "claims.json", change)


def claiming_32_times(files: Files) -> Files:
    """The files with 32 legal claims of an attack of 45,000 steps an image, on every digit of the test split."""
    n = 360

    def score(key: str) -> dict[str, Any]:
        low, high = wilson(n, n)
        return {key: n, "n": n, "accuracy": 1.0, "ci_low": low, "ci_high": high}

    def change(values: dict[str, Any]) -> None:
        (claim,) = values["claims"]
        claim |= {"suite": "margin-t5000", "n": n, "clean": score("correct"), "robust": score("robust")}
        values["claims"] = [claim | {"seed": seed, "outcomes": ["s" * n]} for seed in range(32)]

    return edited(files, "claims.json", change)


def turned(letters: str, letter: str, count: int) -> str:
    """Outcomes with so many of one letter: others become it, the first ones first, or those that are too many fall."""
    found = list(letters)
    while (now := found.count(letter)) != count:
        if now > count:
            found[found.index(letter)] = "f"
        else:
            found[next(i for i, other in enumerate(found) if other in "sf" and other != letter)] = letter
    return "".join(found)


def with_header(files: Files, change: Callable[[dict[str, Any]], object]) -> Files:
    """The files with the header of the weights changed."""
    data = files["model.safetensors"]
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return files | {"model.safetensors": len(text).to_bytes(8, "little") + text + data[8 + length :]}


def rehashed(files: Files) -> Files:
    """The files with all that tells the hash of the weights telling the true one."""
    told = sha256_bytes(files["model.safetensors"])
    files = edited(files, "config.json", lambda config: config.update(weights_hash=told))
    return edited(files, "claims.json", lambda found: [c.update(weights_hash=told) for c in found["claims"]])


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def bytes_of(build: Callable[[zipfile.ZipFile], None]) -> bytes:
    """A .zip in memory."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        build(archive)
    return out.getvalue()
