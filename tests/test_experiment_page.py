"""experiments/: the report is that of the runs there, and README's tables name what is there and what is missing."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import experiment_page

EXPERIMENTS = experiment_page.EXPERIMENTS
CIFAR = EXPERIMENTS["cifar10-jpeg-cpu"]


@pytest.mark.parametrize("name", [name for name, experiment in EXPERIMENTS.items() if experiment.out.exists()])
def test_the_report_is_that_of_the_runs(name: str, tmp_path: Path) -> None:
    """Byte for byte, but for the pixels of figures, which another matplotlib may set otherwise."""
    runs = EXPERIMENTS[name].out
    experiment_page.render(runs, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in (runs / "report").iterdir()}
    for path in tmp_path.iterdir():
        if path.suffix != ".png":
            assert path.read_bytes() == (runs / "report" / path.name).read_bytes(), path.name


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """One of six networks is trained, and its averaged weights have met suite quick."""
    experiment = replace(CIFAR, out=tmp_path, recipes=("singleadv", "separate2adv"))
    run = tmp_path / experiment.run_name("singleadv", 1)
    evaluation = run / "evaluations" / "quick-averaged-n10000-linf8of255-00000000"
    evaluation.mkdir(parents=True)
    for file in (run / "last.json", run / "averaged.json", evaluation / "record.json"):
        file.write_text("{}")
    crossed = tmp_path / experiment.run_name("singleadv", 3)
    crossed.mkdir()
    (crossed / "last.json").write_text(json.dumps({"meta": {"crossed_commits": True}}))
    rows = {line.split(" | ")[0]: line.split(" | ")[1:] for line in experiment_page.state(experiment).splitlines()}
    columns = ["trained", *experiment.suites]
    single, joined = (dict(zip(columns, rows[f"| {name}"], strict=True)) for name in experiment.recipes)
    assert (single["trained"], single["quick"]) == ("1; at two commits 3; missing 0, 2, 4, 5", "1; missing 0, 2")
    assert single["paper"] == "missing 0, 1, 2, 3, 4, 5"  # of networks that only others join, too
    assert (single["appendix"], joined["trained"]) == ("–", "missing 0, 1, 2")
