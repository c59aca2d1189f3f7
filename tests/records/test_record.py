"""Records: the round trip, the bytes, and every way in which a file can fail to be a record."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_runs import HASH, WARNING, make_record, path_of, record_of

from ensemble_bench.errors import RecordError
from ensemble_bench.records import (
    Blackbox,
    Record,
    StageResult,
    Surrogate,
    Threat,
    find_records,
    identify,
    read_record,
    to_json,
    write_record,
)

VERDICTS: dict[str, Sequence[int | None]] = {
    "ifgsm5": [1, 1, 1, 0, 0, 0],
    "pgd20": [1, 0, 1, 1, 0, 0],
    "blackbox": [None, 1, 0, None, None, 1],
}


@pytest.fixture
def record() -> Record:
    """Six images: five right when clean; ifgsm5 breaks 2 of these, pgd20 one more, the black box another one."""
    attacks = {name: [None if v is None else bool(v) for v in verdict] for name, verdict in VERDICTS.items()}
    made, _ = make_record([True] * 5 + [False], attacks, warnings=(WARNING,))
    surrogates = (Surrogate(backbone="wrn", accuracy=0.96),)
    first = replace(made.attacks[0], curve=(5 / 6, 0.6, 0.5), settings={"steps": 5, "start": ("uniform", 0.1)})
    blackbox = Blackbox(hash=HASH, keep_rate=0.5, surrogates=surrogates, n=3)
    return replace(made, attacks=(first, *made.attacks[1:]), blackbox=blackbox)


def changed(record: Record, path: str, value: object) -> Any:
    """The record's JSON with the value at the dotted `path` replaced, or removed if it is `...`."""
    values = json.loads(to_json(record))
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    target: Any = values
    for key in parents:
        target = target[key]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return values


def test_counts_of_the_example(record: Record) -> None:
    assert [(a.robust, a.n, a.credit) for a in record.attacks] == [(3, 6, 2), (3, 6, 1), (2, 3, 1)]
    assert (record.clean.correct, record.robust.robust) == (5, 1)


def test_reading_gives_back_what_was_written(record: Record, tmp_path: Path) -> None:
    path = write_record(record, tmp_path / "new" / "folder")
    again = read_record(path)
    assert again == record
    assert again.path == path
    assert read_record(path.parent) == record
    assert to_json(again) == to_json(record) == path.read_text()
    assert again.attacks[0].settings == {"steps": 5, "start": ["uniform", 0.1]}


def test_json_is_sorted_unrounded_and_without_the_path(record: Record, tmp_path: Path) -> None:
    text = write_record(record, tmp_path).read_text()
    values = json.loads(text)
    assert list(values) == sorted(values)
    assert "path" not in values
    assert values["clean"]["accuracy"] == 5 / 6
    assert values["schema"] == 1
    assert text.endswith("}\n")


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 10**6), st.data())
def test_any_counts_survive_the_round_trip(n: int, data: st.DataObject) -> None:
    clean = data.draw(st.integers(0, n))
    made = record_of(clean=clean, robust=clean, n=n, attacks=(), threat=Threat(norm="l2", eps=0.5))
    assert Record.from_dict(json.loads(to_json(made))) == made


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("flops", ..., "missing field 'flops' in record"),
        ("surprise", 1, "unknown field 'surprise' in record"),
        ("clean.correct", ..., "missing field 'correct' in clean"),
        ("attacks.1.extra", 1, r"unknown field 'extra' in attacks\[1\]"),
        ("schema", 2, "schema: expected 1, got 2"),
        ("id", "abc", "id: expected 64 hex digits"),
        ("n", 6.0, "n: expected an integer, got 6.0"),
        ("n", True, "n: expected an integer, got True"),
        ("n", 0, "n: expected at least 1"),
        ("model", None, "model: expected a text, got None"),
        ("seeds", 0, "seeds: expected a list"),
        ("seeds", ["0"], r"seeds\[0\]: expected an integer"),
        ("versions", [], "versions: expected an object"),
        ("versions.python", 3, "versions.python: expected a text"),
        ("threat.eps", 0, "threat: expected norm linf or l2 and eps > 0, got linf 0.0"),
        ("threat.norm", "l3", "threat: .* got l3"),
        ("clean.accuracy", 1.5, r"clean.accuracy: expected a fraction in \[0, 1\], got 1.5"),
        ("clean.accuracy", 0.8, "clean.accuracy: 5 of 6 images make 0.83"),
        ("clean.accuracy", None, "clean.accuracy: expected a number"),
        ("clean.correct", 7, "clean: expected 0 to n = 6 images, got 7"),
        ("clean.n", 5, "clean.accuracy: 5 of 5 images make 1.0"),
        ("clean.ci_low", 0.9, "does not hold the accuracy"),
        ("robust.ci_high", -0.1, r"robust.ci_high: expected a fraction in \[0, 1\]"),
        ("attacks.0.n", 7, "attacks.ifgsm5.n: expected 0 to 6, got 7"),
        ("attacks.0.credit", 3, "clean.correct less the attacks' credits leaves 0, got 1"),
        ("attacks.0.credit", 4, "attacks.ifgsm5.credit: expected 0 to n − robust 3, got 4"),
        ("attacks.0.curve", [0.5, 2], r"attacks.ifgsm5.curve: expected a fraction in \[0, 1\], got 2.0"),
        ("attacks.0.accuracy", None, "attacks.ifgsm5: accuracy, ci_low and ci_high must be numbers"),
        ("attacks.1.name", "ifgsm5", "an attack stands twice in ifgsm5, ifgsm5, blackbox"),
        ("attacks.2.n", 0, "attacks.blackbox.*credit|no image was attacked"),
        ("blackbox.keep_rate", -1, "blackbox.keep_rate: expected a fraction"),
        ("blackbox.surrogates.0.accuracy", 96.0, "blackbox.surrogates.accuracy: expected a fraction"),
        ("warnings", [{"name": "x"}], r"missing field 'message' in warnings\[0\]"),
        ("seconds", "1", "seconds: expected a number"),
    ],
)
def test_what_is_no_record_is_named_with_its_file_and_field(
    record: Record, tmp_path: Path, path: str, value: object, message: str
) -> None:
    file = tmp_path / "record.json"
    file.write_text(json.dumps(changed(record, path, value)))
    with pytest.raises(RecordError, match=message) as error:
        read_record(file)
    assert str(error.value).startswith(f"{file}: ")
    assert "\n" not in str(error.value)


def test_a_worst_case_above_an_attack_on_all_images_is_refused(record: Record) -> None:
    values = json.loads(to_json(record))
    values["attacks"][1] |= {"robust": 0, "accuracy": 0.0, "ci_low": 0.0, "ci_high": 0.4}
    with pytest.raises(RecordError, match=r"attacks\.pgd20\.robust: 0 is below the worst case 1"):
        Record.from_dict(values)


@pytest.mark.parametrize("text", ["", "{", "[1]", '"text"', '{"n": NaN}', '{"n": Infinity}'])
def test_what_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(RecordError, match=r"record\.json: "):
        read_record(tmp_path)


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="No such file"):
        read_record(tmp_path / "record.json")
    (tmp_path / "record.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecordError, match="not a JSON record"):
        read_record(tmp_path)


def test_an_inconsistent_record_is_not_written(record: Record, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="seconds"):
        write_record(replace(record, seconds=float("nan")), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_attack_without_images_has_no_accuracy(tmp_path: Path) -> None:
    made, _ = make_record([True, False], {"blackbox": [None, None]})
    assert made.attacks[0].accuracy is None
    assert read_record(write_record(made, tmp_path)) == made
    values = changed(made, "attacks.0.accuracy", 0.5)
    with pytest.raises(RecordError, match="no image was attacked"):
        Record.from_dict(values)


def test_records_are_found_in_the_order_of_their_paths_and_a_broken_one_raises(record: Record, tmp_path: Path) -> None:
    for name in ("b", "a/deep", "c"):
        write_record(record, tmp_path / name)
    found = [path_of(found).parent.relative_to(tmp_path).as_posix() for found in find_records(tmp_path)]
    assert found == ["a/deep", "b", "c"]
    (tmp_path / "b" / "record.json").write_text("{}")
    with pytest.raises(RecordError, match="missing field"):
        find_records(tmp_path)
    with pytest.raises(RecordError, match="no such directory"):
        find_records(tmp_path / "nowhere")


def test_identity_depends_on_values_and_not_on_order() -> None:
    assert identify({"a": 1, "b": (2, 3)}) == identify({"b": [2, 3], "a": 1})
    assert identify({"a": 1}) != identify({"a": 2})
    assert len(identify({})) == 64


def test_threats_and_runs_are_shown_as_people_write_them(record: Record) -> None:
    assert str(Threat(norm="linf", eps=8 / 255)) == "linf 8/255"
    assert str(Threat(norm="l2", eps=0.5)) == "l2 0.5"
    assert str(Threat(norm="linf", eps=1e-9)) == "linf 1e-09"
    assert record.run == "singleadv-digits-tiny-s0"
    assert replace(record, model="foreign").run == "foreign"
    assert record.attack("pgd20") is record.attacks[1]
    assert record.attack("pgd500") is None


def test_records_load_without_anything_heavy() -> None:
    heavy = "{'torch', 'pandas', 'pyarrow', 'matplotlib', 'numpy', 'scipy'}"
    code = f"import sys, ensemble_bench.records; sys.exit(len({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def staged(record: Record) -> Record:
    """The record as one of a member whose first attack has two stages and counted its passes."""
    stages = (
        StageResult(name="ifgsm5/a", attacked=5, broken=2, seconds=0.25, passes=70),
        StageResult(name="ifgsm5/b", attacked=3, broken=0, seconds=0.5, passes=30),
    )
    first = replace(record.attacks[0], stages=stages, passes=100)
    return replace(record, attacks=(first, *record.attacks[1:]), view="member1")


def test_views_passes_and_stages_survive_the_round_trip(staged: Record, tmp_path: Path) -> None:
    path = write_record(staged, tmp_path)
    again = read_record(path)
    assert again == staged
    assert (again.view, again.attacks[0].passes, again.attacks[1].passes) == ("member1", 100, None)
    assert [stage.broken for stage in again.attacks[0].stages or ()] == [2, 0]
    assert again.attacks[1].stages is None
    values = json.loads(path.read_text())
    assert values["attacks"][0]["stages"][1] == {
        "attacked": 3,
        "broken": 0,
        "name": "ifgsm5/b",
        "passes": 30,
        "seconds": 0.5,
    }


def test_records_from_before_views_passes_and_stages_are_read(record: Record) -> None:
    values = json.loads(to_json(record))
    del values["view"]
    for attack in values["attacks"]:
        del attack["passes"], attack["stages"]
    assert Record.from_dict(values) == record


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("view", 1, "view: expected a text, got 1"),
        ("attacks.0.passes", 1.5, r"attacks\[0\]\.passes: expected an integer, got 1\.5"),
        ("attacks.0.stages", {}, r"attacks\[0\]\.stages: expected a list"),
        ("attacks.0.stages.1.broken", ..., r"missing field 'broken' in attacks\[0\]\.stages\[1\]"),
        ("attacks.0.stages.0.surprise", 1, r"unknown field 'surprise' in attacks\[0\]\.stages\[0\]"),
        ("attacks.0.stages.0.attacked", "5", r"attacks\[0\]\.stages\[0\]\.attacked: expected an integer"),
    ],
)
def test_wrong_views_passes_and_stages_are_named(staged: Record, path: str, value: object, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        Record.from_dict(changed(staged, path, value))
