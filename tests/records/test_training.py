"""What a record says of the training, and where it comes from in records that lack it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mixed_runs import add, name_of
from mixed_runs import described as described_run
from synthetic_runs import make_record, path_of, write

from ensemble_bench.errors import RecordError
from ensemble_bench.records import (
    Record,
    described,
    find_records,
    folder_of,
    read_record,
    to_json,
    training_of,
    write_record,
)

TRAINING = {
    "changes": {"objective": "adp", "steps": 200},
    "steps": 200,
    "objective": "adp",
    "match": None,
    "settings": {"learning_rate": 0.1, "network": {"width": 1}},
    "eps": 8 / 255,
}


def made(**fields: Any) -> Record:
    return make_record([True, True], {"pgd20": [True, False]}, **fields)[0]


def test_it_survives_the_round_trip(tmp_path: Path) -> None:
    record = made(training=TRAINING)
    assert read_record(write_record(record, tmp_path)) == record
    assert json.loads(to_json(record))["training"] == TRAINING


def test_records_from_before_are_written_as_they_were(tmp_path: Path) -> None:
    """A record without it has the bytes that it had when there was no such field."""
    path = write_record(made(), tmp_path)
    assert "training" not in json.loads(path.read_text())
    assert read_record(path).training is None
    assert to_json(read_record(path)) == path.read_text()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"changes": []}, r"training\.changes: expected object, got \[\]"),
        ({"steps": 1.5}, r"training\.steps: expected int, got 1\.5"),
        ({"steps": True}, r"training\.steps: expected int, got True"),
        ({"steps": 0}, r"training\.steps: expected a number above 0, got 0"),
        ({"objective": None}, r"training\.objective: expected str, got None"),
        ({"match": 2}, r"training\.match: expected str or null, got 2"),
        ({"settings": "tiny"}, r"training\.settings: expected object, got 'tiny'"),
        ({"eps": -1.0}, r"training\.eps: expected a number above 0, got -1\.0"),
        ({"surprise": 1}, "unknown field 'surprise' in training"),
    ],
)
def test_wrong_values_are_named(changed: dict[str, Any], message: str) -> None:
    values = json.loads(to_json(made(training=TRAINING)))
    values["training"] |= changed
    with pytest.raises(RecordError, match=message):
        Record.from_dict(values)
    values["training"] = 1
    with pytest.raises(RecordError, match="training: expected an object"):
        Record.from_dict(values)


def test_a_description_gives_what_it_holds_and_nothing_else() -> None:
    about = described_run(3, {"objective": "adp", "steps": 200})
    found = training_of(about)
    assert found is not None
    assert found["changes"] == {"objective": "adp", "steps": 200}
    assert (found["steps"], found["objective"], found["match"], found["eps"]) == (200, "adp", None, 8 / 255)
    assert found["settings"] == about["settings"]
    before = training_of(described_run(3))
    assert before is not None
    assert "changes" not in before
    # Parts of several trainings have no threat in common; a surrogate and a model from elsewhere have no training.
    assert "eps" not in (training_of(about | {"threat": None}) or {})
    assert training_of({"role": "surrogate", "step": 120}) is None


def test_a_record_from_before_takes_it_from_the_run_that_it_lies_in(tmp_path: Path) -> None:
    run = tmp_path / name_of(3)
    add(run, 3, 50, None)
    record = next(record for record in find_records(tmp_path) if record.suite == "paper")
    assert record.training is None
    assert folder_of(record) == run
    assert described(record).training == training_of(described_run(3))
    assert described(replace(record, training=TRAINING)).training == TRAINING
    for other in ({"seeds": (4,)}, {"recipe": "singleadv"}, {"recipe": None}, {"path": None}):
        assert described(replace(record, **other)).training is None  # type: ignore[arg-type]
    for text in ("[", "[]", "{}"):
        (run / "run.json").write_text(text)
        assert described(record) == record
    (run / "run.json").unlink()
    assert described(record) == record


def test_the_folder_of_a_record_from_elsewhere_is_none(tmp_path: Path) -> None:
    record, samples = make_record([True], {"pgd20": [True]})
    write(record, samples, tmp_path / "run")
    (found,) = find_records(tmp_path)
    assert folder_of(found) == tmp_path / "run"
    moved = replace(found, path=tmp_path / "record.json")
    assert folder_of(moved) is None
    assert path_of(moved).name == "record.json"
