"""The paper's cleaning and averaging against brute force and small cases worked out by hand."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median, stdev
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from synthetic_runs import write_curves

from ensemble_bench.errors import RecordError
from ensemble_bench.reports import write_report
from ensemble_bench.reports.tables.table1 import table_1a
from ensemble_bench.reports.training_curves import (
    METRICS,
    as_paper,
    average,
    count_outliers,
    last_mean,
    read_curves,
    without_outliers,
)


def flat(steps: Sequence[int], value: float = 0.5, **columns: Sequence[float]) -> dict[str, Any]:
    """Columns of curves.csv, all accuracies `value` unless given."""
    return {"step": list(steps)} | {metric: [value] * len(steps) for metric in METRICS} | columns


def cleaned_by_hand(values: Sequence[float], window: int = 50) -> list[float]:
    """Section 4.3, point by point: a window of 50 reaches 25 points back and 24 ahead."""
    smooth = [median(values[max(0, i - window // 2) : i + (window + 1) // 2]) for i in range(len(values))]
    distance = [abs(v - s) for v, s in zip(values, smooth, strict=True)]
    limit = sum(distance) / len(distance) + 3 * (stdev(distance) if len(distance) > 1 else 0)
    return [s if d > limit + 1e-12 else v for v, s, d in zip(values, smooth, distance, strict=True)]


@settings(deadline=None)
@example([0.0, 0.0, 0.0, *[0.20388467065367127] * 3], 50)  # all equally far away: none is an outlier
@given(st.lists(st.floats(0, 1), min_size=1, max_size=130), st.sampled_from([3, 4, 50]))
def test_cleaning_is_the_procedure_point_by_point(values: list[float], window: int) -> None:
    assert without_outliers(np.array(values), window) == pytest.approx(cleaned_by_hand(values, window), abs=1e-12)


def test_planted_outliers_go_and_everything_else_stays() -> None:
    values = 0.5 + 0.01 * np.sin(np.arange(200.0))
    planted = values.copy()
    planted[[60, 140]] = 0.0, 0.9
    clean = without_outliers(planted)
    assert clean[[60, 140]] == pytest.approx([0.5, 0.5], abs=0.01)
    kept = np.delete(np.arange(200), [60, 140])
    assert np.array_equal(clean[kept], planted[kept])


def test_a_small_case_by_hand() -> None:
    # Window 3: medians .1 .1 .1 … ; distances 0 except .8 at index 5. Mean .08, sample sd .8/sqrt(10), limit .839 > .8.
    values = np.full(10, 0.1)
    values[5] = 0.9
    assert without_outliers(values, 3)[5] == 0.9
    # With 20 points: mean .04, sd .8/sqrt(20), limit .577 < .8: replaced.
    values = np.full(20, 0.1)
    values[5] = 0.9
    assert without_outliers(values, 3).tolist() == [0.1] * 20


def test_replaced_points_are_counted(tmp_path: Path) -> None:
    bumpy = [0.5] * 40
    bumpy[20] = 0.0
    write_curves(tmp_path, "singleadv", 0, flat(range(40), clean=bumpy, pgd20=bumpy))
    assert count_outliers(read_curves(tmp_path)[0]) == 2


def test_one_point_is_no_outlier() -> None:
    assert without_outliers(np.array([0.3])).tolist() == [0.3]


def test_two_seeds_meet_on_the_same_thousand_steps(tmp_path: Path) -> None:
    rising = [step / 100 for step in (0, 50, 100)]
    write_curves(tmp_path / "a", "singleadv", 0, flat((0, 50, 100), clean=rising))
    write_curves(tmp_path / "b", "singleadv", 1, flat((0, 100), clean=[0.0, 0.5]))
    merged = as_paper(read_curves(tmp_path))
    assert len(merged.step) == 1000
    assert merged.step == pytest.approx(np.arange(1000) * 100 / 999)
    assert merged.accuracy["clean"] == pytest.approx(0.75 * merged.step / 100)
    assert merged.seeds == (0, 1)
    # The last 10 of 1000 equally spaced points end at 1 and lie 1/999 apart.
    assert last_mean(merged, "clean") == pytest.approx(0.75 * (1 - 4.5 / 999))


def test_only_steps_that_all_seeds_have_are_averaged(tmp_path: Path) -> None:
    write_curves(tmp_path / "a", "singleadv", 0, flat((10, 20, 30), clean=[0.1, 0.2, 0.3]))
    write_curves(tmp_path / "b", "singleadv", 1, flat((20, 30, 40), clean=[0.4, 0.5, 0.9]))
    runs = read_curves(tmp_path)
    assert as_paper(runs).step[[0, -1]].tolist() == [20, 30]
    mean = average(runs)
    assert mean.step.tolist() == [20, 30]
    assert mean.accuracy["clean"] == pytest.approx([0.3, 0.4])
    assert mean.sd is not None
    assert mean.sd["clean"] == pytest.approx([stdev([0.2, 0.4]), stdev([0.3, 0.5])])
    assert average(runs[:1]).sd is None
    write_curves(tmp_path / "c", "singleadv", 2, flat((90, 95)))
    with pytest.raises(RecordError, match=r"a, b, c: .* no training steps in common"):
        average(read_curves(tmp_path))


def test_last_mean_takes_ten_points_or_all(tmp_path: Path) -> None:
    values = [0.0] * 5 + [0.2] * 5 + [0.4] * 5
    write_curves(tmp_path / "long", "singleadv", 0, flat(range(15), clean=values))
    write_curves(tmp_path / "short", "singleadv", 1, flat(range(2), clean=[0.1, 0.3]))
    long, short = read_curves(tmp_path)
    assert last_mean(long, "clean") == pytest.approx(0.3)
    assert last_mean(short, "clean") == pytest.approx(0.2)


def test_curves_know_their_runs(tmp_path: Path) -> None:
    write_curves(tmp_path / "deep" / "run", "doubleadv", 3, flat((5, 10)), steps=20)
    (curve,) = read_curves(tmp_path)
    assert (curve.run, curve.recipe, curve.seeds, curve.n) == ("deep/run", "doubleadv", (3,), 144)
    assert str(curve.group) == "digits, preset tiny, linf 8/255"
    assert not curve.finished
    assert read_curves(tmp_path / "deep" / "run")[0].run == "run"


def test_a_run_without_points_yet_is_no_curve(tmp_path: Path) -> None:
    write_curves(tmp_path / "run", "doubleadv", 3, flat((5,)))
    header = (tmp_path / "run" / "curves.csv").read_text().splitlines()[0]
    (tmp_path / "run" / "curves.csv").write_text(header + "\n")
    assert read_curves(tmp_path) == []


def test_broken_curves_are_named(tmp_path: Path) -> None:
    write_curves(tmp_path / "run", "doubleadv", 3, flat((5, 10), clean=[0.5, 1.5]))
    with pytest.raises(RecordError, match=r"curves\.csv: clean at step 10 is 1\.5"):
        read_curves(tmp_path)
    write_curves(tmp_path / "run", "doubleadv", 3, flat((10, 5)))
    with pytest.raises(RecordError, match="do not ascend"):
        read_curves(tmp_path)
    write_curves(tmp_path / "run", "doubleadv", 3, flat((5, 10)))
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    del described["data_name"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(described))
    with pytest.raises(RecordError, match=r"run\.json: missing field 'data_name'"):
        read_curves(tmp_path)
    (tmp_path / "run" / "run.json").write_text("[")
    with pytest.raises(RecordError, match="not a run's description"):
        read_curves(tmp_path)
    (tmp_path / "run" / "run.json").unlink()
    with pytest.raises(RecordError, match="cannot read which run"):
        read_curves(tmp_path)


@pytest.mark.parametrize(
    ("described", "values", "n"),
    [
        ({"validation_n": 40, "settings": {"evaluate_n": 500}}, [0.5, 0.525], 40),
        # Before run.json held their number, only the accuracies tell whether there were as many as were wanted.
        ({"validation_n": None, "settings": {"evaluate_n": 500}}, [0.5, 0.525], None),
        ({"validation_n": None, "settings": {"evaluate_n": 500}}, [0.5, 0.526], 500),
        ({"validation_n": None, "settings": {}}, [0.5, 0.526], None),
    ],
)
def test_n_is_the_number_of_images_that_there_were(
    tmp_path: Path, described: dict[str, Any], values: list[float], n: int | None
) -> None:
    write_curves(tmp_path / "run", "singleadv", 0, flat((5, 10), clean=values), **described)
    (curve,) = read_curves(tmp_path)
    assert curve.n == n
    (table,) = table_1a([curve], [])
    assert ("n = " in table.caption) == (n is not None)
    assert table.about["n"] == str(n or "")


def test_an_overfitted_training_is_noted_and_a_standard_one_is_not(tmp_path: Path) -> None:
    columns = flat([10, 20, 30], fgsm=[0.3, 0.5, 0.9], pgd20=[0.3, 0.4, 0.0])
    write_curves(tmp_path / "singleadv-s0", "singleadv", 0, columns)
    write_curves(tmp_path / "baseline-s0", "baseline", 0, columns)
    found = {curve.run: curve.overfitted for curve in read_curves(tmp_path)}
    assert found == {"baseline-s0": None, "singleadv-s0": 30}
    notes = write_report(tmp_path, tmp_path / "report").notes
    assert [note for note in notes if "overfitted" in note] == [
        "singleadv-s0 overfitted catastrophically from step 30 on: under one step of an attack its accuracy rose or "
        "held, under many it fell."
    ]
