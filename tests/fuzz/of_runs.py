"""Targets: runs that go on, and users' own data sets."""

import functools
import io
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from mutating import Parts
from PIL import Image
from target import SMALL, Target, each, scratch, self_sealed

from ensemble_bench import data
from ensemble_bench.errors import CheckpointError, DataError, InvalidValueError, RecordError
from ensemble_bench.reports.training_curves import read_curves
from ensemble_bench.training import provenance, rundir, step_log


def plan() -> dict[str, Any]:
    return {
        "recipe": "singleadv",
        "preset": "tiny",
        "dataset": "digits",
        "data_name": "digits",
        "seeds": [0],
        "steps": 30,
        "threat": {"norm": "linf", "eps": 0.1},
        "settings": {"evaluate_n": 144},
        "changes": {},
        "architecture": SMALL.as_dict(),
    }


versions = functools.cache(provenance.versions)


def run_seeds() -> list[Parts]:
    """The run.json, curves.csv and steps.jsonl of a run that goes on, with checksums and as they were before these."""
    out = Path(scratch().name) / "run"
    with mock.patch.object(rundir, "commit", return_value=None):
        rundir.claim(out, plan(), device="cpu", resume=False, validation_n=144)
    about = json.loads((out / "run.json").read_text())
    names = "step,epoch,clean,fgsm,ifgsm5,ifgsm7,pgd5,pgd20,loss,lr,seconds"
    rows = [f"{step},{step / 9},0.75,0.5,0.5,0.5,0.5,{0.5 / step},1.25,0.1,3.5" for step in (1, 2, 3)]
    curves = "\n".join([f"{names},check", *(f"{row},@check" for row in rows), ""])
    before = "\n".join([names, *rows, ""])
    steps = "".join(json.dumps({"step": step, "loss": 0.5, "lr": 0.1}) + "\n" for step in (1, 2, 3))
    sealed = json.dumps(about | {"self_hash": "@self", "later_versions": [about["versions"]]})
    del about["self_hash"]
    return [tuple(map(str.encode, p)) for p in ((sealed, curves, steps), (json.dumps(about), before, steps))]


def run_sealed(parts: Parts) -> Parts:
    about, curves, steps = parts
    lines = curves.split(b"\n")
    for at, line in enumerate(lines):
        if line.endswith(b",@check"):
            row = line.removesuffix(b",@check")
            lines[at] = row + f",{zlib.crc32(row):08x}".encode()
    return self_sealed(about), b"\n".join(lines), steps


def read_run(folder: Path) -> None:
    """Go on with a run, and read its curves."""
    # Asking git and the installed packages takes longer than all else.
    with mock.patch.multiple(rundir, commit=lambda: None, versions=versions):
        each(
            lambda: rundir.crossed_commits(folder),
            lambda: rundir.crossed_versions(folder),
            lambda: rundir.threads_of(folder),
            lambda: rundir.claim(folder, plan(), device="cpu", resume=True),
            lambda: read_curves(folder),
            lambda: step_log._forget(folder / step_log.STEPS, after=2),
        )


def pictures(n: int) -> list[bytes]:
    found = []
    for index in range(n):
        out = io.BytesIO()
        pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(out, format="PNG" if index % 2 else "JPEG")
        found.append(out.getvalue())
    return found


def parquet_seeds() -> list[Parts]:
    images = [{"bytes": content, "path": None} for content in pictures(12)]
    features = {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["a", "b"]}}}}
    table = pa.table({"image": images, "label": [0, 1] * 6})
    hub = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    words = pa.table({"image": pictures(12), "label": ["cat", "dog"] * 6})
    found: list[Parts] = []
    for one in (hub, words):
        sink = io.BytesIO()
        pq.write_table(one, sink, compression="none")
        found.append((sink.getvalue(),))
    return found


def npz_seeds() -> list[Parts]:
    found: list[Parts] = []
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    labels = np.array([0, 1] * 6)
    for arrays in (
        {"x": pixels, "y": labels},
        {
            "x_train": pixels / 255,
            "y_train": labels,
            "x_test": pixels,
            "y_test": labels,
            "classes": np.array(["a", "b"]),
        },
    ):
        out = io.BytesIO()
        np.savez(out, **arrays)
        found.append((out.getvalue(),))
    return found


def reading_data(name: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        before = os.environ.get("ENSEMBLE_BENCH_CACHE")
        os.environ["ENSEMBLE_BENCH_CACHE"] = str(folder / "cache")
        try:
            source = data.open_source(name.format(folder=folder))
            source.split("test").batch(slice(2))
        finally:
            if before is None:
                del os.environ["ENSEMBLE_BENCH_CACHE"]
            else:
                os.environ["ENSEMBLE_BENCH_CACHE"] = before

    return read


TARGETS = (
    Target(
        name="run",
        files={"run.json": "json", "curves.csv": "csv", "steps.jsonl": "lines"},
        seeds=run_seeds,
        read=read_run,
        errors=(CheckpointError, RecordError, InvalidValueError),
        seal=run_sealed,
    ),
    Target(
        name="parquet",
        files={"mine.parquet": "parquet"},
        seeds=parquet_seeds,
        read=reading_data("parquet:{folder}/mine.parquet"),
        errors=(DataError,),
    ),
    Target(
        name="npz",
        files={"mine.npz": "zip"},
        seeds=npz_seeds,
        read=reading_data("npz:{folder}/mine.npz"),
        errors=(DataError,),
    ),
)
