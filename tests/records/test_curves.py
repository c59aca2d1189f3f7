"""curves.csv: files of earlier versions, and the alarm for catastrophic overfitting on curves with known answers."""

from pathlib import Path

import pytest

from ensemble_bench.errors import RecordError
from ensemble_bench.records import curves

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = sorted(path for part in ("experiments", "leaderboards") for path in (ROOT / part).rglob("curves.csv"))


def _rows(one_step: list[float], multi_step: list[float]) -> list[curves.Row]:
    return [
        dict.fromkeys(curves.CURVE_COLUMNS, 0.5) | {"step": 10 * i, "fgsm": fgsm, "pgd20": pgd}
        for i, (fgsm, pgd) in enumerate(zip(one_step, multi_step, strict=True), 1)
    ]


@pytest.mark.parametrize(
    ("one_step", "multi_step", "n", "step"),
    [
        ([0.3, 0.4, 0.8, 0.95], [0.3, 0.35, 0.02, 0.0], 500, 30),  # as it happens
        ([0.3, 0.4, 0.8, 0.95], [0.3, 0.35, 0.02, 0.0], 8, None),  # on 8 images that may be chance
        ([0.3, 0.4, 0.6, 0.7], [0.3, 0.35, 0.3, 0.25], 144, 30),  # slowly: the gap has grown from 0.05 to 0.3
        ([0.3, 0.4, 0.6, 0.7], [0.3, 0.35, 0.36, 0.37], 144, None),  # many steps too leave more and more standing
        ([0.3, 0.4, 0.45, 0.5], [0.3, 0.35, 0.4, 0.42], 500, None),  # an honest run
        ([0.3, 0.4, 0.2, 0.3], [0.3, 0.35, 0.15, 0.3], 500, None),  # both fall: a rate too high, not this
        ([0.5, 0.6, 0.6, 0.61], [0.4, 0.5, 0.45, 0.4], 500, None),  # less than chance explains
        ([0.5, 0.6, 0.6, 0.61], [0.4, 0.5, 0.45, 0.4], 10_000, 30),
        ([], [], 500, None),
    ],
)
def test_the_alarm_needs_both_accuracies_to_part(
    one_step: list[float], multi_step: list[float], n: int, step: int | None
) -> None:
    assert curves.catastrophic_overfitting(_rows(one_step, multi_step), n) == step


def test_curves_without_the_single_step_are_read_and_raise_no_alarm(tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "fgsm"} for row in _rows([0.1, 0.9], [0.5, 0.0])]
    curves.write(tmp_path / "curves.csv", rows)
    assert "clean,ifgsm5," in (tmp_path / "curves.csv").read_text()
    assert curves.read(tmp_path / "curves.csv") == rows
    assert curves.catastrophic_overfitting(rows, 500) is None
    (tmp_path / "curves.csv").write_text("step,loss\n1,2\n")
    with pytest.raises(RecordError, match="expected the columns step,epoch,clean,fgsm"):
        curves.read(tmp_path / "curves.csv")


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.parent.name)
def test_no_honest_run_raises_the_alarm(path: Path) -> None:
    rows = curves.read(path)
    assert rows
    assert curves.catastrophic_overfitting(rows, 500) is None


def test_it_fires_on_a_run_that_overfits_to_single_steps() -> None:
    """FGSM without noise, long and on few images: fixtures/README.md has the command."""
    rows = curves.read(ROOT / "tests/fixtures/catastrophic-overfitting.csv")
    assert curves.catastrophic_overfitting(rows, 144) == 1300
