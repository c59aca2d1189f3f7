"""The robustness curve against the images of its records."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_runs import build_appendix, build_sweep, path_of

from ensemble_bench.records import Record, Search, Threat, find_records, read_samples, worst_case
from ensemble_bench.records.statistics import wilson
from ensemble_bench.records.table import to_csv
from ensemble_bench.reports.robustness import robustness_panels, robustness_tables, sweeps


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """Two seeds of an ensemble and one of a single network at three eps, and another suite at one eps."""
    root = tmp_path_factory.mktemp("runs")
    build_sweep(root, ("ensemble2adv",), seeds=(0, 1), n=60)
    build_sweep(root, ("singleadv",), n=60)
    build_sweep(root, ("singleadv",), n=60, levels=(8,), suite="quick")
    return find_records(root)


def counts(records: list[Record], recipe: str, seed: int) -> dict[str, int]:
    """How many images stand at each eps, 0 included, counted in the samples."""
    own = [r for r in records if (r.recipe, r.seeds, r.suite) == (recipe, (seed,), "strongest")]
    samples = {r.threat.eps_text: read_samples(path_of(r).parent) for r in own}
    return {"0": int(samples["4/255"]["clean"].sum())} | {
        eps: int(worst_case(samples[eps]).sum()) for eps in ("4/255", "8/255", "16/255")
    }


def test_lines_are_the_images_with_wilson_bands_and_means_of_seeds(records: list[Record]) -> None:
    (panel,) = robustness_panels(records)
    assert [line.label for line in panel.lines] == ["singleadv", "ensemble2adv"]
    assert panel.ticks == (0, 4, 8, 16)
    assert panel.band == "95 % interval or mean ± sd over seeds"
    assert panel.setting == "digits, preset tiny, linf, suite strongest, test images, n = 60"
    wins = (panel.lines[1].y > panel.lines[0].y)[1:].sum()
    best, at = ("ensemble2adv", wins) if wins > 1 else ("singleadv", 3 - wins)
    assert panel.title == f"{best} withstands most, {'at every eps' if at == 3 else f'at {at} of 3 eps'}"
    single, ensemble = panel.lines
    expected = np.array(list(counts(records, "singleadv", 0).values()))
    assert single.x.tolist() == ensemble.x.tolist() == [0, 4, 8, 16]
    assert single.y == pytest.approx(expected / 60)
    assert (np.diff(single.y) <= 0).all()
    assert single.band is not None
    assert np.array(single.band).T.tolist() == pytest.approx(np.array([wilson(k, 60) for k in expected]))
    seeds = np.array([list(counts(records, "ensemble2adv", seed).values()) for seed in (0, 1)]) / 60
    assert ensemble.y == pytest.approx(seeds.mean(axis=0))
    assert ensemble.band is not None
    # The sample deviation of two values is their distance over √2.
    assert ensemble.band[1] - ensemble.y == pytest.approx(abs(seeds[1] - seeds[0]) / 2**0.5)
    assert single.look != ensemble.look


def test_csv_is_a_row_a_model_and_eps(records: list[Record]) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(robustness_tables(records)))))
    assert [row["eps"] for row in rows] == ["0", "4/255", "8/255", "16/255"] * 4
    assert {row["suite"] for row in rows} == {"strongest"}
    expected = counts(records, "ensemble2adv", 1)
    own = [row for row in rows if (row["model"], row["seeds"]) == ("ensemble2adv", "1")]
    assert [row["robust_accuracy"] for row in own] == [f"{k / 60:.4f}" for k in expected.values()]
    assert [row["robust_accuracy_ci_low"] for row in own] == [f"{wilson(k, 60)[0]:.4f}" for k in expected.values()]
    assert own[0]["run"] == "ensemble2adv-digits-tiny-s1"
    mean_rows = [row for row in rows if row["seeds"] == "mean of 0, 1"]
    seeds = [counts(records, "ensemble2adv", seed).values() for seed in (0, 1)]
    assert [row["robust_accuracy"] for row in mean_rows] == [
        f"{(a + b) / 120:.4f}" for a, b in zip(*seeds, strict=True)
    ]


def test_one_eps_is_no_curve(records: list[Record]) -> None:
    assert robustness_panels([r for r in records if r.threat.eps_text == "8/255"]) == []
    assert robustness_tables([]) == []
    others = [replace(r, split="validation") if r.threat.eps_text == "4/255" else r for r in records]
    (setting,) = sweeps(others)
    assert setting.split == "test"
    assert all(len(run.records) == 2 for runs in sweeps(others).values() for run in runs)


def test_of_several_evaluations_at_one_eps_the_lowest_stands(records: list[Record]) -> None:
    own = [r for r in records if (r.recipe, r.suite) == ("singleadv", "strongest")]
    weaker = [replace(r, id="0" * 64, robust=replace(r.robust, robust=r.robust.robust + 1, accuracy=0.99)) for r in own]
    assert robustness_tables(weaker + own) == robustness_tables(own)


def test_seeds_of_other_conditions_at_any_eps_are_not_averaged(records: list[Record]) -> None:
    """That the smallest was searched alike says nothing of the others."""
    found = Search(precision="float32", folded=True, compiled=False)
    made = []
    for record in records:
        other = record.seeds == (1,) and record.threat.eps_text == "8/255"
        made.append(replace(record, search=replace(found, precision="bf16") if other else found))
    (panel,) = robustness_panels(made)
    assert [line.label for line in panel.lines] == [
        "singleadv",
        "ensemble2adv, search float32 / bf16 / float32",
        "ensemble2adv, search float32",
    ]
    assert not [row for table in robustness_tables(made) for row in table.rows if str(row[2]).startswith("mean")]


def test_members_last_checkpoints_and_other_weights_stand_apart(records: list[Record], tmp_path: Path) -> None:
    own = [r for r in records if (r.recipe, r.suite) == ("singleadv", "strongest")]
    assert sweeps([replace(r, view="member1") for r in own]) == {}
    last = [replace(r, checkpoint="last", model=r.model.replace("/best", "/last")) for r in own]
    assert sweeps([*own, *last]) == sweeps(own)
    half = [replace(r, weights_hash="sha256:new") if r.threat.eps_text == "16/255" else r for r in own]
    assert [len(run.records) for runs in sweeps(half).values() for run in runs] == [2]
    build_appendix(tmp_path, "ensemble2adv", members=2, n=20)
    assert sweeps(find_records(tmp_path)) == {}


def test_other_norms_are_shown_as_they_are(records: list[Record]) -> None:
    own = [r for r in records if (r.recipe, r.suite) == ("singleadv", "strongest")]
    l2 = [replace(r, threat=Threat(norm="l2", eps=size)) for r, size in zip(own, (0.25, 0.5, 1.0), strict=True)]
    (panel,) = robustness_panels(l2)
    assert panel.lines[0].x.tolist() == [0, 0.25, 0.5, 1.0]
    assert panel.x_label == "eps"


def test_a_model_of_no_training_has_a_curve(records: list[Record]) -> None:
    own = [r for r in records if (r.recipe, r.suite) == ("singleadv", "strongest")]
    foreign = [replace(r, model="mine", recipe=None, preset=None, checkpoint=None) for r in own]
    (panel,) = robustness_panels(foreign)
    assert [line.label for line in panel.lines] == ["mine"]
    assert panel.setting.startswith("digits, linf, suite strongest, test images, n = ")
    first, *_, last = panel.lines[0].y
    assert panel.title == f"mine falls from {100 * first:.1f} % to {100 * last:.1f} % at eps 16"
