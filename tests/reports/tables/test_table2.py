"""Table 2 and Figure 3 against the images and the thresholds that they are made of."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_runs import STRATEGIES, STRENGTH, build_appendix, build_runs, decay, make_record, path_of, result_of

from ensemble_bench.records import Record, Threat, find_records, read_samples, worst_case
from ensemble_bench.records.statistics import wilson
from ensemble_bench.records.table import Value, to_csv, to_markdown
from ensemble_bench.reports.figures.figure3 import doubling_panels
from ensemble_bench.reports.run_parts import doublings, name_without_steps, run_parts
from ensemble_bench.reports.tables.table2 import table_2

N = 200


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ensembles with their parts, two single networks, and records of another suite."""
    root = tmp_path_factory.mktemp("runs")
    build_appendix(root, "ensemble4adv", members=4)
    build_appendix(root, "ensemble2adv", members=2, seed=1)
    build_appendix(root, "doubleadv")
    build_appendix(root, "singleadv")
    return build_runs(root, ("ensemble2adv",), n=30, points=3, suites=("paper",))


def robust_of(record: Record) -> float:
    """Worst-case accuracy of the record, counted in its images."""
    return float(worst_case(read_samples(path_of(record).parent)).mean())


def test_a_table_an_ensemble_and_one_of_the_single_networks(runs: Path) -> None:
    tables = table_2(find_records(runs))
    assert [table.title.rpartition(", ")[2] for table in tables] == [
        "ensemble2adv-digits-tiny-s1",
        "ensemble4adv-digits-tiny-s0",
        "single networks",
    ]
    ends = ["Ensemble", "Ensemble (remove softmax)"]
    assert [row[0] for row in tables[0].rows] == ["Model 1", "Model 2", *ends]
    assert [row[0] for row in tables[1].rows] == [*(f"Model {i}" for i in (1, 2, 3, 4)), *ends]
    assert [row[:2] for row in tables[2].rows] == [
        ("singleadv", "0"),
        ("doubleadv", "0"),
    ]
    assert tables[0].columns == ("model", "clean accuracy", "adversarial accuracy [95 %]")


def test_the_numbers_are_those_of_the_images(runs: Path) -> None:
    records = {record.model: record for record in find_records(runs) if record.suite == "appendix"}
    _, table, singles = table_2(list(records.values()))
    run = "ensemble4adv-digits-tiny-s0/best"
    views = [f"{run}#member{i}" for i in (1, 2, 3, 4)] + [run, f"{run}#logit"]
    for row, model in zip(table.rows, views, strict=True):
        samples = read_samples(path_of(records[model]).parent)
        robust = robust_of(records[model])
        low, high = wilson(round(robust * N), N)
        assert row[1:] == (
            Value(accuracy=samples["clean"].mean()),
            Value(accuracy=pytest.approx(robust), ci_low=pytest.approx(low), ci_high=pytest.approx(high)),
        )
    worst = singles.rows[0][-1]
    assert isinstance(worst, Value)
    assert worst.accuracy == robust_of(records["singleadv-digits-tiny-s0/best"])


def test_the_caption_names_the_strongest_attack(runs: Path) -> None:
    _, table, singles = table_2(find_records(runs))
    (whole,) = [r for r in find_records(runs) if r.model == "ensemble4adv-digits-tiny-s0/best"]
    accuracy = read_samples(path_of(whole).parent)[list(STRATEGIES)].mean()
    assert accuracy.idxmin() == "mean-member-doubled80"
    strongest = f"mean-member-doubled80 left the fewest images standing ({100 * accuracy.min():.1f})."
    assert f"Ensemble: 5 attacks, of which {strongest}" in table.caption
    assert "digits, preset tiny, linf 8/255, test split, n = 200, seeds 0." in table.caption
    assert "left the fewest" not in singles.caption


def test_members_are_ordered_by_number(tmp_path: Path) -> None:
    build_appendix(tmp_path, "ensemble4adv", members=11, n=20)
    (table,) = table_2(find_records(tmp_path))
    assert [row[0] for row in table.rows][8:12] == ["Model 9", "Model 10", "Model 11", "Ensemble"]


def test_parts_of_other_weights_images_and_threats_do_not_mix(tmp_path: Path) -> None:
    build_appendix(tmp_path, "ensemble2adv", members=2, n=20)
    records = find_records(tmp_path)
    others: list[Record] = []
    for fields in ({"weights_hash": "sha256:new"}, {"threat": Threat(norm="l2", eps=0.5)}, {"split": "validation"}):
        others += [replace(record, **fields) for record in records]  # type: ignore[arg-type]
    tables = table_2(records + others)
    assert [len(table.rows) for table in tables] == [4] * 4
    last = [replace(record, checkpoint="last", model=record.model.replace("/best", "/last")) for record in records]
    assert table_2([*records, *last]) == table_2(records)
    assert table_2([replace(record, suite="quick") for record in records]) == []


def test_of_a_part_that_was_evaluated_twice_the_lower_stands_in_the_figure(tmp_path: Path) -> None:
    build_appendix(tmp_path, "ensemble2adv", members=2, n=20)
    records = find_records(tmp_path)
    whole = next(record for record in records if record.view is None)
    again = replace(whole, id="f" * 64, seed=1)
    (table,) = table_2([*records, again])
    named = ["Ensemble", f"Ensemble (again: record {max(whole.id, again.id)[:8]})"]
    assert [row[0] for row in table.rows] == ["Model 1", "Model 2", *named, "Ensemble (remove softmax)"]
    assert [line.label for line in doubling_panels([*records, again])[1].lines] == [
        "margin",
        "random-member",
        "mean-member",
        "max-member",
        "clipped-member",
    ]


def test_csv_holds_ensembles_and_single_networks(runs: Path) -> None:
    tables = table_2(find_records(runs))
    lines = to_csv(tables).splitlines()
    assert lines[0] == (
        "data_name,preset,threat,split,n,model,seeds,part,clean,adversarial,adversarial_ci_low,adversarial_ci_high"
    )
    assert len(lines) == 1 + 4 + 6 + 2
    assert lines[1].startswith("digits,tiny,linf 8/255,test,200,ensemble2adv,1,Model 1,0.")
    assert lines[-1].startswith("digits,tiny,linf 8/255,test,200,doubleadv,0,,0.")
    assert to_markdown(tables).count("### Table 2: against the strongest adversary, ") == 3


def test_accuracy_after_each_doubling_is_that_of_the_thresholds(runs: Path) -> None:
    """An image stands after 40 steps if it is below the thresholds of 10, 20 and 40."""
    hardness = np.random.default_rng(0).random(N)
    high, low = STRENGTH["ensemble4adv"]
    (whole,) = [r for r in find_records(runs) if r.model == "ensemble4adv-digits-tiny-s0/best"]
    for name, more in STRATEGIES.items():
        found = doublings(result_of(whole, name), N)
        assert found is not None
        assert [steps for steps, _ in found] == [10, 20, 40, 80][: len(found)]
        standing = hardness < high
        for steps, accuracy in found:
            before = standing
            standing = standing & (hardness < decay(high, low + more, steps))
            assert accuracy == pytest.approx(standing.mean())
        assert len(found) == 4 or before.sum() == standing.sum()


def test_what_has_one_stage_has_one_point_and_other_attacks_none() -> None:
    record, _ = make_record([True] * 4, {"margin-doubled80": [True] * 3 + [False], "pgd20": [True] * 4})
    attack, pgd = record.attacks
    first = replace(attack, settings={"stages": [{"name": "margin-doubled80/10"}]})
    assert doublings(first, 4) == [(10, 0.75)]
    for settings in ({}, {"stages": []}, {"stages": [{"name": "mora100/alpha0.5"}]}):
        assert doublings(replace(attack, settings=settings), 4) is None
    assert doublings(pgd, 4) is None
    assert [name_without_steps(a) for a in record.attacks] == ["margin", "pgd"]


def test_figure_3_draws_parts_and_attacks(runs: Path) -> None:
    records = find_records(runs)
    panels = doubling_panels(records)
    assert [panel.part for panel in panels] == [
        "(a) each part, margin loss",
        "(b) attacks on the ensemble",
    ] * 2
    parts, attacks = panels[2:]
    assert [line.label for line in parts.lines] == [str(row[0]) for row in table_2(records)[1].rows]
    assert [line.label for line in attacks.lines] == [
        "margin",
        "random-member",
        "mean-member",
        "max-member",
        "clipped-member",
    ]
    assert "ensemble4adv-digits-tiny-s0, linf 8/255" in parts.setting
    for line in parts.lines:
        view = {"Ensemble": "", "Ensemble (remove softmax)": "#logit"}.get(line.label, f"#member{line.label[-1]}")
        (record,) = [r for r in records if r.model == f"ensemble4adv-digits-tiny-s0/best{view}"]
        assert line.y[-1] == pytest.approx(result_of(record, "margin-doubled80").accuracy)
        assert (np.diff(line.y) <= 0).all()
    assert parts.scale == "log"
    assert set(parts.ticks) == {step for line in parts.lines for step in line.x}
    # Every line holds to the last step of both panels, with an interval at every point.
    assert {line.x[-1] for panel in (parts, attacks) for line in panel.lines} == {80}
    for line in (*parts.lines, *attacks.lines):
        assert line.band is not None
        assert np.array(line.band).T.tolist() == pytest.approx(np.array([wilson(round(200 * y), 200) for y in line.y]))
    least = min(attacks.lines, key=lambda line: line.y[-1])
    assert attacks.title.startswith(f"(b) {least.label}")
    assert f"{100 * least.y[-1]:.1f} %" in attacks.title
    ends = {line.label: f"{100 * line.y[-1]:.1f}" for line in parts.lines}
    members = sorted(end for label, end in ends.items() if label.startswith("Model"))
    assert parts.title == f"(a) Members alone {members[0]} to {members[-1]} %, the ensemble {ends['Ensemble']} %"


def test_figure_3_needs_an_ensemble(tmp_path: Path) -> None:
    build_appendix(tmp_path, "singleadv", n=20)
    assert doubling_panels(find_records(tmp_path)) == []
    assert [run.is_single for run in run_parts(find_records(tmp_path))] == [True]


def test_images_that_fell_at_a_smaller_eps_are_no_attack(tmp_path: Path) -> None:
    """They fall under every strategy, before its first step."""
    build_appendix(tmp_path, "ensemble2adv", members=2, n=20)
    whole = next(record for record in find_records(tmp_path) if record.view is None)
    attacks = {
        "smaller-eps": [True] * 12 + [False] * 6,
        "margin-doubled80": [True] * 9 + [False] * 9,
        "mean-member-doubled80": [False] + [True] * 8 + [False] * 9,
    }
    made, _ = make_record([True] * 18, attacks, recipe="ensemble2adv", suite="appendix", forward_passes=2)
    settings = {"name": "smaller-eps", "eps": 4 / 255, "record": whole.id}
    carried = replace(made, attacks=(replace(made.attacks[0], settings=settings), *made.attacks[1:]))
    table, other = table_2([carried, whole])
    assert "n = 18" in table.caption
    assert "Images that fell at linf 4/255 count as fallen under every attack." in table.caption
    assert "2 attacks, of which mean-member-doubled80 left the fewest images standing (44.4)" in table.caption
    assert "fell at" not in other.caption
    assert "carried_eps" in to_csv([table, other]).splitlines()[0]
