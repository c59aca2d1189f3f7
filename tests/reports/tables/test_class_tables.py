"""Tables of classes: their cells against the samples, and one record for each model."""

from pathlib import Path

import numpy as np
from synthetic_runs import make_record, path_of, write

from ensemble_bench.records import Record, find_records, read_samples
from ensemble_bench.records.statistics import wilson
from ensemble_bench.records.table import Value
from ensemble_bench.reports import parts_of, write_report
from ensemble_bench.reports.tables.classes import UNKNOWN, class_tables, confusion_tables, strongest

N, CLASSES = 60, 3


def a_record(root: Path, suite: str, *, seed: int = 0, predicted: bool = True) -> Record:
    noise = np.random.default_rng(seed)
    clean = noise.random(N) < 0.8
    record, samples = make_record(clean.tolist(), {"pgd20": (clean & (noise.random(N) < 0.6)).tolist()}, suite=suite)
    samples["label"] = noise.integers(0, CLASSES, N)
    wrong = (samples["label"] + noise.integers(1, CLASSES, N)) % CLASSES
    samples["clean_prediction"] = np.where(clean, samples["label"], wrong)
    samples["broken_by"] = samples["broken_by"].where(samples["clean"], None)
    if predicted:
        samples["adversarial_prediction"] = wrong.astype("Int64").where(samples["broken_by"].notna())
    write(record, samples, root / record.run)
    (found,) = (r for r in find_records(root) if r.suite == suite)
    return found


def test_every_cell_follows_from_the_samples(tmp_path: Path) -> None:
    record = a_record(tmp_path, "quick")
    samples = read_samples(path_of(record).parent)
    (table,) = class_tables([record])
    assert [row[0] for row in table.rows] == ["0", "1", "2"]
    for label, (_, n, clean, worst, taken) in enumerate(table.rows):
        mine = samples[samples["label"] == label]
        for cell, count in ((clean, mine["clean"].sum()), (worst, mine["pgd20"].sum())):
            low, high = wilson(int(count), len(mine))
            assert cell == Value(accuracy=count / len(mine), ci_low=low, ci_high=high)
        assert n == len(mine)
        ends = mine["adversarial_prediction"].fillna(mine["clean_prediction"])
        counts = ends[ends != label].value_counts()
        assert str(taken).split()[1] == f"({counts.max()})"
        assert counts[int(str(taken).split()[0])] == counts.max()
    clean, attacked = confusion_tables([record])
    assert clean.columns == attacked.columns == ("class", "0", "1", "2")
    for table, ends in (
        (clean, samples["clean_prediction"]),
        (attacked, samples["adversarial_prediction"].fillna(samples["clean_prediction"])),
    ):
        for label, (_, *counts) in enumerate(table.rows):
            assert counts == [((samples["label"] == label) & (ends == other)).sum() for other in range(CLASSES)]


def test_a_record_from_before_has_a_column_of_what_is_not_known(tmp_path: Path) -> None:
    record = a_record(tmp_path, "quick", predicted=False)
    samples = read_samples(path_of(record).parent)
    clean, attacked = confusion_tables([record])
    assert clean.columns[-1] == "2"
    assert attacked.columns[-1] == UNKNOWN
    assert sum(int(row[-1]) for row in attacked.rows) == samples["broken_by"].notna().sum()  # type: ignore[arg-type]


def test_a_model_is_shown_under_its_strongest_suite_and_only_when_asked(tmp_path: Path) -> None:
    records = [a_record(tmp_path / "runs", suite) for suite in ("strongest", "quick")]
    assert strongest(records) == strongest(records[::-1]) == records[:1]
    whole = write_report(tmp_path / "runs", tmp_path / "report")
    assert not {"classes", "confusion"} & {table.name for table in whole.tables}
    asked = write_report(tmp_path / "runs", tmp_path / "report", parts=parts_of(["classes"]))
    assert [table.name for table in asked.tables] == ["classes", "confusion", "confusion"]
    assert sorted(path.name for path in asked.paths) == sorted(
        f"{name}.{suffix}" for name in ("classes", "confusion") for suffix in ("md", "csv", "tex")
    )
