"""One wrong bit in any file that is trusted: an error that says how to make it anew, or what was there before."""

import json
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killing import Killed, killing
from small_models import blackbox_set, trained

from ensemble_bench.attacks.blackbox.blackbox_set import load_blackbox, save_blackbox
from ensemble_bench.errors import EnsembleBenchError
from ensemble_bench.evaluation.journal import Journal
from ensemble_bench.evaluation.runner import evaluate
from ensemble_bench.models import checkpoint
from ensemble_bench.models.build import build
from ensemble_bench.records import curves, read_record, read_samples, samples_to_parquet, write_record
from ensemble_bench.reports.training_curves import read_curves
from ensemble_bench.training import rundir, state
from ensemble_bench.training.optimizer import sgd
from ensemble_bench.training.presets import PRESETS
from ensemble_bench.training.trainer import train

FLIPS = 150


def _resumed(path: Path) -> Any:
    model = build(checkpoint.read_info(path.parent).architecture, seed=1)
    optimizer = sgd(model, PRESETS["tiny"].on("digits"))
    reached = state.load(path, model, optimizer)
    momenta = [optimizer.state[p]["momentum_buffer"].numpy().tobytes() for p in model.parameters()]
    tensors = [value.numpy().tobytes() for value in model.state_dict().values()]
    return reached.step, reached.best, reached.loss_sum, reached.loss_n, reached.seconds_before, momenta, tensors


def _loaded(path: Path) -> Any:
    model = checkpoint.load(path.with_suffix(".safetensors"))
    return model.info, [value.numpy().tobytes() for value in model.state_dict().values()]


def _blackbox(path: Path) -> Any:
    found = load_blackbox(path.with_suffix(".safetensors"))
    parts = (found.ids.tolist(), found.labels.tolist(), found.x_adv.numpy().tobytes())
    return {"info": dict(found.info), "parts": parts}


def _journal(path: Path) -> Any:
    journal = Journal(path, "an evaluation")
    return {f"{attack} {block}": journal.get(attack, block) for attack in ("clean", "pgd5") for block in range(2)}


READERS: Mapping[str, Callable[[Path], Any]] = {
    "evaluation/record.json": lambda path: read_record(path).as_dict(),
    "evaluation/samples.parquet": lambda path: samples_to_parquet(read_samples(path.parent)),
    "journal.jsonl": _journal,
    "run/best.json": _loaded,
    "run/best.safetensors": _loaded,
    "run/resume.safetensors": _resumed,
    "run/run.json": lambda path: {"run": rundir.read_run(path.parent), "shown": repr(read_curves(path.parent))},
    "run/curves.csv": curves.read,
    "set.json": _blackbox,
    "set.safetensors": _blackbox,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of every kind, as the package writes it."""
    root = tmp_path_factory.mktemp("flips")
    evaluate(trained(), n=12, suite="ifgsm1+ifgsm5", out=root / "evaluation")
    with pytest.raises(Killed):
        train(
            "baseline", out=root / "run", max_steps=4, settings={"evaluate_every": 1, "average": 0}, progress=killing(4)
        )
    journal = Journal(root / "journal.jsonl", "an evaluation", threads=2, versions={"torch": "2"})
    for block in range(2):
        journal.put("clean", block, {"prediction": [1, 2, 3], "unstable": 0})
        journal.put("pgd5", block, {"broken": [True, False, True], "margin": [0.25, float("nan"), 1e-5]})
    found = load_blackbox(blackbox_set())
    parts = {"ids": found.ids[:4], "x_adv": found.x_adv[:4], "labels": found.labels[:4]}
    save_blackbox(root / "set.safetensors", **parts, info={k: v for k, v in found.info.items() if k != "hash"})
    return root


def outcome(name: str, path: Path, before: Any) -> str:
    """What reading the file gives: "same", "error", or what else, for a test to show."""
    try:
        found = READERS[name](path)
    except EnsembleBenchError as error:
        said = str(error)
        helps = path.stem in said and "`ensemble-bench " in said and "\n" not in said
        return "error" if helps else f"an error that does not help: {said}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "same" if _as_before(found, before) else f"silently other: {found}"


def _as_before(found: Any, before: Any) -> bool:
    """Whether all that was there is as it was.

    What a journal does not know is done again. A key that is new, the hash's own with a wrong bit, nobody reads.
    """
    if isinstance(before, dict):
        return found is None or all(_as_before(found.get(key), value) for key, value in before.items())
    return repr(found) == repr(before)  # NaN is not equal to itself


@pytest.mark.parametrize("name", READERS)
def test_no_wrong_bit_gives_another_result_without_a_word(files: Path, tmp_path: Path, name: str) -> None:
    path = Path(shutil.copytree(files, tmp_path / "files")) / name
    data, before = path.read_bytes(), READERS[name](path)
    draw = random.Random(0)
    for position in sorted(draw.sample(range(8 * len(data)), FLIPS)):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        path.write_bytes(flipped)
        found = outcome(name, path, before)
        assert found in ("same", "error"), f"bit {position % 8} of byte {position // 8}: {found}"


def test_files_from_before_hashes_are_read(files: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(files, tmp_path / "files"))
    for name in ("evaluation/record.json", "run/best.json", "run/run.json", "set.json"):
        path = folder / name
        before = READERS[name](path)
        values = json.loads(path.read_text())
        for key in ("self_hash", "samples_hash"):
            values.pop(key, None)
        path.write_text(json.dumps(values))
        if name != "evaluation/record.json":
            assert READERS[name](path) == before
    record = read_record(folder / "evaluation")
    assert record.samples_hash is None
    assert len(read_samples(folder / "evaluation")) == record.n
    path = folder / "run/curves.csv"
    rows = curves.read(path)
    path.write_text("".join(line.rpartition(",")[0] + "\n" for line in path.read_text().splitlines()))
    assert curves.read(path) == rows


@pytest.mark.parametrize(
    ("column", "value", "what"),
    [("clean", False, "clean.correct"), ("broken_by", "ifgsm5", "credit"), ("ifgsm5", False, "robust.robust")],
)
def test_samples_from_before_hashes_must_make_the_counts(
    files: Path, tmp_path: Path, column: str, value: object, what: str
) -> None:
    folder = Path(shutil.copytree(files / "evaluation", tmp_path / "evaluation"))
    write_record(replace(read_record(folder), samples_hash=None), folder)
    samples = read_samples(folder)
    row = int(np.flatnonzero(samples["clean"] & samples["broken_by"].isna())[0])
    samples.loc[row, column] = value
    (folder / "samples.parquet").write_bytes(samples_to_parquet(samples))
    with pytest.raises(EnsembleBenchError, match=rf"samples\.parquet: its images make .*{what}"):
        read_samples(folder)
