"""Blocks of one evaluation, scored apart and in any order: the record is that of one process."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_models import ARCHITECTURE, blackbox_set, recorded, trained

from ensemble_bench.errors import InvalidValueError
from ensemble_bench.evaluation import job as jobs
from ensemble_bench.evaluation.journal import Journal
from ensemble_bench.evaluation.request import Request
from ensemble_bench.evaluation.runner import evaluate_block, evaluate_checkpoints
from ensemble_bench.models import checkpoint
from ensemble_bench.registry import SUITES, Suite

N, BLOCK = 34, 12
BLOCKS = range(3)
# Stages that end on what all blocks broke, parts of the ensemble, a cascade with a probe, one with a triage, several
# eps, a black-box set.
CASES: dict[str, dict[str, Any]] = {
    "parts": {},
    "cascade": {},
    "triaged": {"eps": (16 / 255, 28 / 255, 40 / 255)},
    "paper": {"blackbox": blackbox_set(), "eps": (32 / 255,)},
}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "BLOCK", BLOCK)
    made = (
        Suite(name="parts", attacks=("margin-doubled40",), views=("margin-doubled20",), description=""),
        Suite(name="cascade", attacks=("apgd-t5", "margin-doubled40"), cascade=True, probe=True, description=""),
        Suite(
            name="triaged",
            attacks=("ifgsm1", "margin-doubled20", "apgd-t5"),
            cascade=True,
            one_in={"margin-doubled20": 2, "apgd-t5": 4},
            description="",
        ),
    )
    for suite in made:
        monkeypatch.setitem(SUITES, suite.name, suite)  # type: ignore[arg-type]


def a_run(folder: Path) -> Path:
    meta = {"recipe": "ensemble2adv", "dataset": "digits", "threat": {"norm": "linf", "eps": 24 / 255}}
    checkpoint.save(folder / "best.safetensors", trained(members=2), replace(ARCHITECTURE, members=2), meta)
    return folder


def outcome(run: Path) -> dict[str, Any]:
    """All that lies there of the evaluations: samples as bytes, records without times."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: timeless(part) for key, part in value.items() if key not in ("seconds", "self_hash")}
        return [timeless(part) for part in value] if isinstance(value, list) else value

    return {
        str(path.relative_to(run)): timeless(json.loads(path.read_bytes()))
        if path.suffix == ".json"
        else path.read_bytes()
        for path in (run / "evaluations").rglob("*.*")
        if path.is_file()
    }


@pytest.mark.parametrize("suite", CASES)
def test_blocks_in_any_order_make_the_same_record(tmp_path: Path, suite: str) -> None:
    one, many = a_run(tmp_path / "one" / "e-s0"), a_run(tmp_path / "many" / "e-s0")
    options = {"suite": suite, "n": N, **CASES[suite]}
    evaluate_checkpoints([one], **options)
    shuffled = random.Random(0).sample(BLOCKS, len(BLOCKS))
    for block in shuffled:
        evaluate_block(Request(models=(many,), **options), block)
    assert list(many.rglob("journal-block*.jsonl"))
    assert not list(many.rglob("record.json"))
    evaluate_checkpoints([many], **options)
    assert outcome(one) == outcome(many)
    assert {Path(name).name for name in outcome(many)} == {"record.json", "samples.parquet"}


def test_what_blocks_found_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_run(tmp_path / "e-s0")
    for block in BLOCKS:
        evaluate_block(Request(models=(run,), suite="triaged", n=N), block)
    model = trained(members=2)
    monkeypatch.setattr(checkpoint, "load", lambda path: model)
    with recorded(model) as calls:
        evaluate_checkpoints([run], suite="triaged", n=N)
    # Counting the FLOPs of a record takes one image; the look at the model repeats a few images and some noise.
    assert sum(images for images, _ in calls) < 300
    assert sum(gradient for _, gradient in calls) == 1


def test_a_missing_block_is_made_up_for(tmp_path: Path) -> None:
    one, some = a_run(tmp_path / "one" / "e-s0"), a_run(tmp_path / "some" / "e-s0")
    evaluate_checkpoints([one], suite="cascade", n=N)
    evaluate_block(Request(models=(some,), suite="cascade", n=N), 2)
    evaluate_checkpoints([some], suite="cascade", n=N)
    assert outcome(one) == outcome(some)


def test_a_finished_evaluation_is_left_alone(tmp_path: Path) -> None:
    run = a_run(tmp_path / "e-s0")
    evaluate_checkpoints([run], suite="triaged", n=N)
    before = outcome(run)
    evaluate_block(Request(models=(run,), suite="triaged", n=N), 0)
    assert outcome(run) == before


@pytest.mark.parametrize("block", [-1, 3])
def test_a_block_that_is_not_there_is_named(tmp_path: Path, block: int) -> None:
    with pytest.raises(InvalidValueError, match=f"block is {block}: the evaluation has 3"):
        evaluate_block(Request(models=(a_run(tmp_path / "e-s0"),), suite="triaged", n=N), block)


def test_the_journal_of_a_block_continues_what_the_whole_one_began(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    whole = Journal(path, "id")
    whole.put("pgd5", 2, {"broken": [True]})
    part = Journal(path, "id", only=2)
    assert part.get("pgd5", 0) == {"attack": "pgd5", "block": 2, "broken": [True]}
    assert part.get("clean", 0) is None
    part.put("clean", 0, {"prediction": [3]})
    again = Journal(path, "id")
    assert again.get("clean", 2) == {"attack": "clean", "block": 2, "prediction": [3]}
    assert Journal(path, "another id").get("clean", 2) is None
    again.remove()
    assert list(tmp_path.iterdir()) == []
