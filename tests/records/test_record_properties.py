"""Records of any verdicts: read as written, in one form, under their own hash, with the counts of their images."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic_runs import make_record

from ensemble_bench.errors import RecordError
from ensemble_bench.files import sha256_bytes
from ensemble_bench.records import (
    Record,
    Threat,
    identify,
    read_record,
    read_samples,
    samples_to_parquet,
    to_json,
    worst_case,
    write_record,
)

NAMES = ("ifgsm5", "pgd20", "margin-t10", "blackbox")
Verdicts = Mapping[str, Sequence[bool | None]]
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)  # halves of pairs are in no file
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def evaluations(draw: st.DrawFn) -> tuple[list[bool], Verdicts]:
    """Which images are right clean, and which withstood each attack (None: not attacked)."""
    n = draw(st.integers(1, 12))
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=3))
    verdict = st.lists(st.sampled_from([True, False, None]), min_size=n, max_size=n)
    return draw(st.lists(st.booleans(), min_size=n, max_size=n)), {name: draw(verdict) for name in names}


fields = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**31 - 1),
        "seeds": st.lists(st.integers(0, 99), min_size=1, max_size=3).map(tuple),
        "seconds": st.floats(0, 1e9),
        "threat": st.builds(Threat, norm=st.sampled_from(["linf", "l2"]), eps=st.floats(1e-9, 1e9)),
        "model": texts,
        "versions": st.dictionaries(texts, texts, max_size=2),
        "architecture": st.none() | st.dictionaries(texts, json_values, max_size=3),
        "commit": st.none() | texts,
        "flops": st.none() | st.integers(0, 2**62),
    }
)
quick = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])


def saved(folder: Path, evaluation: tuple[list[bool], Verdicts], changes: Mapping[str, Any]) -> Record:
    """A record and its samples on disk, as an evaluation leaves them."""
    made, samples = make_record(*evaluation, **changes)
    data = samples_to_parquet(samples)
    record = replace(made, samples_hash=sha256_bytes(data))
    write_record(record, folder)
    (folder / "samples.parquet").write_bytes(data)
    return record


@quick
@given(evaluation=evaluations(), changes=fields)
def test_what_is_read_is_what_was_written_in_one_form(
    evaluation: tuple[list[bool], Verdicts], changes: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("record")
    record = saved(folder, evaluation, changes)
    text = (folder / "record.json").read_text(encoding="utf-8")
    again = read_record(folder)
    assert again == record
    assert to_json(again) == text
    # The form is that of the values alone: sorted, and under the hash of all others.
    values = json.loads(text)
    told = values.pop("self_hash")
    assert told == f"sha256:{identify(values)}"
    assert list(values) == sorted(values)
    shuffled = {key: values[key] for key in reversed(values)}
    assert to_json(Record.from_dict(shuffled)) == text


@quick
@given(evaluation=evaluations(), changes=fields, data=st.data())
def test_any_value_that_was_changed_is_noticed(
    evaluation: tuple[list[bool], Verdicts],
    changes: Mapping[str, Any],
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("record")
    saved(folder, evaluation, changes)
    path = folder / "record.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    key = data.draw(st.sampled_from(sorted(set(values) - {"self_hash"})))
    value = data.draw(json_values.filter(lambda other: json.dumps(other) != json.dumps(values[key])))
    path.write_text(json.dumps(values | {key: value}), encoding="utf-8")
    with pytest.raises(RecordError, match="damaged: it says that its values hash to"):
        read_record(folder)


@quick
@given(evaluation=evaluations(), changes=fields)
def test_counts_are_those_of_the_images(
    evaluation: tuple[list[bool], Verdicts], changes: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Counted here image by image: the first attack that breaks an image gets it."""
    folder = tmp_path_factory.mktemp("record")
    record = saved(folder, evaluation, changes)
    clean, attacks = evaluation
    samples = read_samples(folder)
    first = {
        row: next((name for name, verdict in attacks.items() if verdict[row] is False), None)
        for row, right in enumerate(clean)
        if right
    }
    assert record.clean.correct == len(first)
    assert record.robust.robust == list(first.values()).count(None)
    assert worst_case(samples).tolist() == [right and first[row] is None for row, right in enumerate(clean)]
    for attack in record.attacks:
        met = [verdict for verdict in attacks[attack.name] if verdict is not None]
        assert (attack.n, attack.robust) == (len(met), met.count(True))
        assert attack.credit == list(first.values()).count(attack.name)


@quick
@given(evaluation=evaluations(), data=st.data())
def test_other_counts_than_those_of_the_images_are_refused(
    evaluation: tuple[list[bool], Verdicts], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Of samples without a hash, from versions before: one verdict turned is another count."""
    folder = tmp_path_factory.mktemp("record")
    made, samples = make_record(*evaluation)
    write_record(made, folder)
    row = data.draw(st.integers(0, len(samples) - 1))
    samples.loc[row, "clean"] = not samples.loc[row, "clean"]
    (folder / "samples.parquet").write_bytes(samples_to_parquet(samples))
    with pytest.raises(RecordError, match=r"its images make clean\.correct"):
        read_samples(folder)
