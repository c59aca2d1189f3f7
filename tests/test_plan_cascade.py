"""The plan of a cascade on what a few made-up attacks broke."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from small_models import trained

from ensemble_bench import ThreatModel, evaluate
from ensemble_bench.errors import RecordError

BENCHMARK = runpy.run_path(str(Path(__file__).resolve().parents[1] / "benchmarks/plan_cascade.py"))
THREAT = ThreatModel(eps=0.09)


def alone(name: str, broken: str, cost: float, margin: tuple[float, ...] = (0.0,) * 6) -> object:
    return BENCHMARK["Alone"](
        name=name,
        broken=np.array([letter == "x" for letter in broken]),
        passes=np.full(6, cost),
        margin=np.array(margin),
    )


def test_the_most_broken_for_a_pass_comes_next() -> None:
    attacks = [
        alone("all", "xxxxx.", 100),
        alone("cheap", "xx....", 1, (1, 1, -4, -3, -2, -1)),
        alone("more", "xxxx..", 10),
        alone("none", "......", 5),
    ]
    steps = list(BENCHMARK["plan"](attacks))
    assert [(s.name, s.standing, s.broken, s.passes) for s in steps] == [
        ("cheap", 6, 2, 6.0),
        ("more", 4, 2, 40.0),
        ("all", 2, 1, 200.0),
        ("none", 1, 0, 5.0),
    ]
    # Of the four that cheap left, the two that `more` breaks were the farthest from being broken.
    assert [s.deepest for s in steps[:2]] == [None, 1.0]


def test_it_reads_evaluations(tmp_path: Path) -> None:
    folders = []
    for seed in (0, 1):
        folders.append(tmp_path / str(seed))
        evaluate(trained(seed=seed), suite="ifgsm1+margin10", n=40, threat=THREAT, out=folders[-1])
    first, margin = BENCHMARK["alone_of"](folders)
    assert (first.name, margin.name) == ("ifgsm1", "margin10")
    assert 0 < first.broken.sum() < margin.broken.sum() < len(margin.broken) <= 80
    records = [BENCHMARK["read_record"](folder / "record.json") for folder in folders]
    for one, row in ((first, 0), (margin, 1)):
        assert one.passes.sum() == pytest.approx(sum(record.attacks[row].passes for record in records))
    lines = list(BENCHMARK["table"]([first, margin], records))
    assert lines[0].startswith("80 images of 2 models, ")
    assert sum(line.startswith("| `margin10` |") for line in lines) == 2


def test_a_cascade_and_evaluations_with_nothing_in_common_are_refused(tmp_path: Path) -> None:
    for suite in ("quick", "ifgsm1", "margin10"):
        evaluate(trained(), suite=suite, n=4, threat=ThreatModel(eps=0.01), out=tmp_path / suite)
    with pytest.raises(RecordError, match="quick: a cascade"):
        BENCHMARK["alone_of"]([tmp_path / "quick"])
    with pytest.raises(RecordError, match="no attack that all of them ran"):
        BENCHMARK["alone_of"]([tmp_path / "ifgsm1", tmp_path / "margin10"])
