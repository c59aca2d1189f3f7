"""What a verdict compares: the same images, attacks, conditions and as many evaluations, and each model once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from planted_verdicts import SEEDS, TRAINED, Bools, changed, first, planted, three, verdict_on
from synthetic_runs import HASH, make_record, write

from ensemble_bench.errors import RecordError
from ensemble_bench.records import (
    AttackResult,
    Blackbox,
    Search,
    find_records,
    identify,
    write_record,
)
from ensemble_bench.records.table import Value
from ensemble_bench.reports import write_report
from ensemble_bench.reports.tables.table1 import suite_tables
from ensemble_bench.reports.tables.verdicts import verdict_tables
from ensemble_bench.reports.verdicts import notes_on_missing_verdicts, verdicts


@pytest.mark.parametrize(
    "fields",
    [
        {"data_hash": "sha256:other"},
        {"split": "validation"},
        {"suite": "strongest"},
        {"preset": "small"},
        {"blackbox": Blackbox(hash=HASH, keep_rate=0.5, surrogates=(), n=5)},
        {"view": "member1"},
    ],
)
def test_other_images_or_attacks_are_not_compared(tmp_path: Path, fields: dict[str, Any]) -> None:
    three(tmp_path, "ensemble2adv", 5, 5, 5, n=10)
    three(tmp_path, "singleadv", 4, 4, 4, n=10, **fields)
    assert verdicts(find_records(tmp_path)) == []
    notes = notes_on_missing_verdicts(find_records(tmp_path))
    told = [note.partition(": no records of ") for note in notes]
    assert any("members-2" in claims and "singleadv" in missing for claims, _, missing in told)


def test_other_settings_of_an_attack_are_another_attack(tmp_path: Path) -> None:
    three(tmp_path, "ensemble2adv", 5, 5, 5, n=10)
    record, samples = make_record([True] * 10, {"sweep10": [True] * 10}, recipe="singleadv", suite="quick")
    attack = AttackResult(**{**vars(record.attacks[0]), "settings": {"steps": 6}})
    write(replace(record, attacks=(attack,)), samples, tmp_path / record.run)
    assert verdicts(find_records(tmp_path)) == []


def evaluated_again(root: Path, recipe: str, spared: Bools, seed: int) -> None:
    """A second evaluation of a model under the suite, with another seed of the attacks."""
    planted(root, recipe, spared, seeds=(seed,), seed=1, id=identify({"recipe": recipe, "again": seed}))


def test_several_evaluations_of_a_model_count_together_if_all_have_as_many(tmp_path: Path) -> None:
    """What any of them broke is broken, and a model that was evaluated more often than the other is not punished."""
    three(tmp_path, "ensemble2adv", 500, 500, 500)
    three(tmp_path, "doubleadv", 400, 400, 400)
    again = first(1000, 600)
    again[:50] = False
    for seed in SEEDS:
        evaluated_again(tmp_path, "ensemble2adv", again, seed)
    assert (verdict_on(tmp_path).images, verdict_on(tmp_path).accuracies) == (1000, (0.5, 0.4))
    for seed in SEEDS:
        evaluated_again(tmp_path, "doubleadv", first(1000, 390), seed)
    assert verdict_on(tmp_path).accuracies == (0.45, 0.39)


@pytest.mark.parametrize(
    "unlike",
    [
        {"search": Search(precision="bf16", folded=True, compiled=False)},
        {"commit": "1" * 40 + "-dirty"},
        {"training": {"steps": 1, "crossed_commits": True}},
    ],
    ids=["precision", "dirty tree", "trained at two commits"],
)
def test_records_of_other_conditions_are_not_compared(tmp_path: Path, unlike: dict[str, Any]) -> None:
    alike = {
        "search": Search(precision="float32", folded=True, compiled=False),
        "commit": "1" * 40,
        "training": {"steps": 1, "crossed_commits": False},
    }
    three(tmp_path, "ensemble2adv", 500, 500, 500, **alike)
    three(tmp_path, "doubleadv", 400, 400, 400, **(alike | unlike))
    assert verdicts(find_records(tmp_path)) == []
    three(tmp_path, "singleadv", 300, 300, 300, **alike)
    assert [verdict.claim.name for verdict in verdicts(find_records(tmp_path))] == ["members-2"]


def test_a_try_on_few_images_does_not_shrink_a_comparison(tmp_path: Path) -> None:
    three(tmp_path, "ensemble2adv", 500, 500, 500)
    three(tmp_path, "doubleadv", 400, 400, 400)
    planted(tmp_path, "doubleadv", first(10, 10), seeds=(3,))
    assert (verdict_on(tmp_path).images, verdict_on(tmp_path).right[0].seeds) == (1000, "0, 1, 2")


@pytest.mark.parametrize(
    "tries",
    [{"doubleadv": {3: (10, 9)}}, {"quadadv": {0: (20, 2), 1: (20, 9), 2: (20, 18)}}, {"quadadv": {2: (10, 9)}}],
    ids=["a further seed", "another recipe", "the third seed of another recipe"],
)
def test_nor_is_it_noise_between_the_seeds_of_all_claims(
    tmp_path: Path, tries: dict[str, dict[int, tuple[int, int]]]
) -> None:
    for recipe, count in (("ensemble2adv", 500), ("doubleadv", 450)):
        three(tmp_path, recipe, count, count + 5, count + 10)
    three(tmp_path, "quadadv", 470, 470)
    before = verdict_on(tmp_path)
    assert before.outcome == "shown"
    for recipe, seeds in tries.items():
        for seed, (n, count) in seeds.items():
            planted(tmp_path, recipe, first(n, count), seeds=(seed,), id=identify({"try": seed}))
    assert verdict_on(tmp_path).judgement.contrast == before.judgement.contrast


def test_weights_of_another_kind_are_no_seed_of_a_row(tmp_path: Path) -> None:
    """Two seeds by their averaged weights and a third by its last ones are not three seeds."""
    three(tmp_path, "ensemble2adv", 500, 500, 500, checkpoint="averaged", training=TRAINED)
    three(tmp_path, "doubleadv", 400, 400, checkpoint="averaged", training=TRAINED)
    planted(tmp_path, "doubleadv", first(1000, 100), seeds=(2,), checkpoint="last", training=TRAINED)
    verdict = verdict_on(tmp_path)
    assert (verdict.outcome, verdict.right[0].seeds, verdict.accuracies) == ("not shown", "0, 1", (0.5, 0.4))


def test_averaged_weights_are_not_compared_with_the_best(tmp_path: Path) -> None:
    three(tmp_path, "ensemble2adv", 500, 500, 500, checkpoint="averaged", training=TRAINED)
    three(tmp_path, "doubleadv", 400, 400, 400, checkpoint="best", training=TRAINED)
    assert verdicts(find_records(tmp_path)) == []
    notes = " ".join(notes_on_missing_verdicts(find_records(tmp_path)))
    assert "test split, checkpoint averaged" in notes
    assert "test split, checkpoint best" in notes


def test_table_and_verdict_choose_the_same_run_of_a_doubled_seed(tmp_path: Path) -> None:
    three(tmp_path, "ensemble2adv", 500, 500, 500, training=TRAINED)
    for folder, seed, count, name in (("", 0, 400, "zz"), ("", 1, 400, "b"), ("", 2, 400, "c"), ("old", 0, 900, "aa")):
        about: dict[str, Any] = {"seeds": (seed,), "model": f"{name}-s{seed}/best", "training": TRAINED}
        planted(tmp_path / folder, "doubleadv", first(1000, count), weights_hash=f"sha256:{name}", **about)
    records = find_records(tmp_path)
    (table,) = suite_tables(records)
    (mean,) = [row[-1] for row in table.rows if row[:2] == ("doubleadv", "mean of 0, 1, 2")]
    assert mean == Value(accuracy=pytest.approx(0.4), sd=pytest.approx(0))
    assert verdict_on(tmp_path).accuracies == (0.5, pytest.approx(0.4))
    (note,) = [note for note in notes_on_missing_verdicts(records) if "another run has its seed" in note]
    assert "has its seed: old/aa-s0 (" in note


@pytest.mark.parametrize(
    ("unlike", "told"),
    [
        ({"search": Search(precision="bf16", folded=True, compiled=False)}, ("search float32", "search bf16")),
        ({"commit": "1" * 40 + "-dirty"}, ("tree clean", "tree dirty")),
        ({"data_hash": "sha256:" + "cd" * 32}, ("data abababab", "data cdcdcdcd")),
        ({"training": TRAINED | {"crossed_commits": True}}, ("trained at one commit", "trained at two commits")),
    ],
    ids=["precision", "tree", "data", "two commits"],
)
def test_families_that_differ_in_their_conditions_alone_are_told_apart(
    tmp_path: Path, unlike: dict[str, Any], told: tuple[str, str]
) -> None:
    """What one shows may be the reverse of the other: neither stands under the other's heading."""
    known = {"search": Search(precision="float32", folded=True, compiled=False), "commit": "1" * 40}
    for folder, (left, right), about in (("a", (520, 400), {}), ("b", (400, 520), unlike)):
        for recipe, count in (("ensemble2adv", left), ("doubleadv", right)):
            fields = {"training": TRAINED, **known, **about}
            three(tmp_path / "runs" / folder, recipe, count, count + 1, count + 2, **fields)
    report = write_report(tmp_path / "runs", tmp_path / "out")
    text = "digits, preset tiny, linf 8/255, suite quick, test split, "
    assert {(v.family.where, v.outcome) for v in report.verdicts} == {
        (text + told[0], "shown"),
        (text + told[1], "reversed"),
    }
    tables = verdict_tables(report.verdicts)
    assert [(table.caption, len(table.rows), table.about["conditions"]) for table in tables] == [
        (verdict.family.where, 1, verdict.family.apart) for verdict in report.verdicts
    ]
    page = (tmp_path / "out" / "report.md").read_text()
    for verdict in report.verdicts:
        assert f"({verdict.where}):\n\n- {verdict}\n" in page


def test_more_conditions_than_can_be_named_still_tell_families_apart(tmp_path: Path) -> None:
    for folder, steps in (("a", 6), ("b", 7)):
        for recipe in ("ensemble2adv", "doubleadv"):
            record, samples = make_record([True] * 10, {"sweep10": [True] * 10}, recipe=recipe, suite="quick")
            settings = {f"{name}_steps": steps for name in "abcde"}
            attack = AttackResult(**{**vars(record.attacks[0]), "settings": settings})
            write(replace(record, attacks=(attack,)), samples, tmp_path / folder / record.run)
    first_, second = (verdict.family.apart for verdict in verdicts(find_records(tmp_path)))
    assert first_.startswith("sweep10 a steps 6, sweep10 b steps 6, ")
    assert first_.rpartition(", conditions ")[2] != second.rpartition(", conditions ")[2] != ""


def test_the_most_images_on_which_a_test_is_possible(tmp_path: Path) -> None:
    three(tmp_path, "ensemble2adv", 500, 500, 500)
    three(tmp_path, "doubleadv", 400, 400)
    planted(tmp_path, "doubleadv", first(700, 390), seeds=(2,))
    assert (verdict_on(tmp_path).images, verdict_on(tmp_path).right[0].seeds) == (700, "0, 1, 2")


def test_models_that_share_a_network_or_a_seed_do_not_count_twice(tmp_path: Path) -> None:
    three(tmp_path, "ensemble2adv", 500, 500, 500, training=TRAINED)
    for seeds in ((0, 1), (1, 2), (2, 3)):
        planted(tmp_path, "separate2adv", first(1000, 400), seeds=seeds, training=TRAINED)
    planted(tmp_path, "ensemble2adv", first(1000, 500), seeds=(0,), model="twice/best", training=TRAINED)
    verdict = verdict_on(tmp_path, "apart-2")
    assert [row.seeds for row in (*verdict.left, *verdict.right)] == ["0, 1, 2", "0+1, 2+3"]
    assert "needs at least 3 seeds of separate2adv" in str(verdict)
    (note,) = [n for n in notes_on_missing_verdicts(find_records(tmp_path)) if "another run has its seed" in n]
    assert f"{tmp_path.name}/twice, {tmp_path.name}/separate2adv-digits-tiny-s1" in note


def test_rows_of_one_recipe_are_judged_apart_and_named(tmp_path: Path) -> None:
    three(tmp_path, "ensemble2adv", 500, 500, 500, training=TRAINED)
    for match, parameters in (("params", 20_000), ("flops", 19_000)):
        for seed in SEEDS:
            about: dict[str, Any] = {
                "seeds": (seed,),
                "parameters": parameters,
                "model": f"doubleadv-{match}-s{seed}/best",
            }
            about["training"] = TRAINED
            planted(tmp_path, "doubleadv", first(1000, 400), **about)
    found = [v for v in verdicts(find_records(tmp_path)) if v.claim.name == "wider-2"]
    labels = [v.right[0].label for v in found]
    assert labels == ["doubleadv, 19000 parameters", "doubleadv, 20000 parameters"]
    assert [v.parameters for v in found] == [0.95, 1.0]
    assert {v.judgement.tested for v in found} == {2}


def test_runs_that_were_all_changed_alike_are_a_family_of_their_own(tmp_path: Path) -> None:
    three(tmp_path, "ensemble2adv", 500, 500, 500, training=TRAINED)
    three(tmp_path, "doubleadv", 400, 400, 400, training=TRAINED)
    for recipe, count in (("ensemble2adv", 300), ("doubleadv", 350), ("singleadv", 200)):
        training = changed(eps=0.01) if recipe == "singleadv" else changed(steps=200)
        for seed in SEEDS:
            about: dict[str, Any] = {"seeds": (seed,), "model": f"long-{recipe}-s{seed}/best", "training": training}
            planted(tmp_path, recipe, first(1000, count), **about)
    found = {v.family.where.partition("split")[2]: v for v in verdicts(find_records(tmp_path))}
    assert {where: round(v.judgement.difference, 3) for where, v in found.items()} == {
        "": 0.1,
        ", with steps=200": -0.05,
    }


def test_what_a_wider_network_is_matched_on_makes_two_rows_of_one_family(tmp_path: Path) -> None:
    three(tmp_path, "ensemble2adv", 500, 500, 500, training=TRAINED)
    three(tmp_path, "doubleadv", 400, 400, 400, training=TRAINED)
    for seed in SEEDS:
        about: dict[str, Any] = {"model": f"flops-s{seed}/best", "training": changed(match="flops")}
        planted(tmp_path, "doubleadv", first(1000, 450), seeds=(seed,), **about)
    found = {v.right[0].label: v.judgement.difference for v in verdicts(find_records(tmp_path))}
    assert found == {"doubleadv": pytest.approx(0.1), "doubleadv, match flops": pytest.approx(0.05)}


def test_samples_that_contradict_their_record_are_refused(tmp_path: Path) -> None:
    planted(tmp_path, "ensemble2adv", first(10, 5))
    directory = planted(tmp_path, "singleadv", first(10, 4))
    _, other = make_record([True] * 10, {"sweep10": [False] * 10})
    write(replace(find_records(directory)[0], model="x/best"), other, tmp_path / "singleadv-digits-tiny-s0")
    with pytest.raises(RecordError, match=r"its images make robust\.robust 0, its record says 4"):
        verdicts(find_records(tmp_path))
    (directory / "samples.parquet").unlink()
    with pytest.raises(RecordError, match="cannot read the samples"):
        verdicts(find_records(tmp_path))


def test_other_image_ids_are_refused(tmp_path: Path) -> None:
    planted(tmp_path, "ensemble2adv", first(10, 5))
    record, samples = make_record([True] * 10, {"sweep10": [True] * 4 + [False] * 6}, suite="quick")
    write(record, samples.assign(id=samples["id"] + 1), tmp_path / record.run)
    with pytest.raises(RecordError, match="are not the images of"):
        verdicts(find_records(tmp_path))


def test_the_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    three(tmp_path, "ensemble2adv", 500, 505, 510)
    three(tmp_path, "singleadv", 400, 405, 410)
    before = verdict_on(tmp_path, "members-2").judgement
    for seed, count in enumerate((400, 405, 410)):
        record, samples = make_record(
            [True] * 1000, {"sweep10": list(map(bool, first(1000, count)))}, suite="quick", seeds=(seed,)
        )
        write(record, samples.iloc[::-1], tmp_path / record.run)
    assert verdict_on(tmp_path, "members-2").judgement == before


def test_a_record_from_nowhere_has_no_samples(tmp_path: Path) -> None:
    about = [{"recipe": recipe, "suite": "quick"} for recipe in ("ensemble2adv", "singleadv")]
    records = [make_record([True, True], {"sweep10": [True, True]}, **fields)[0] for fields in about]
    with pytest.raises(RecordError, match="not read from a file"):
        verdicts(records)
    assert write_record(records[0], tmp_path).exists()


def test_images_carried_over_from_a_smaller_eps_are_part_of_the_attack(tmp_path: Path) -> None:
    def carried(recipe: str, eps: float, robust: int) -> None:
        attacks = {"smaller-eps": [True] * 8 + [False] * 2, "sweep10": [True] * robust + [False] * (10 - robust)}
        record, samples = make_record([True] * 10, attacks, recipe=recipe, suite="quick")
        before = replace(record.attacks[0], settings={"eps": eps})
        write(replace(record, attacks=(before, record.attacks[1])), samples, tmp_path / record.run)

    carried("ensemble2adv", 4 / 255, 6)
    carried("singleadv", 4 / 255, 5)
    carried("doubleadv", 2 / 255, 5)
    planted(tmp_path, "separate2adv", first(10, 4), seeds=(0, 1))
    (verdict,) = verdicts(find_records(tmp_path))
    assert (verdict.claim.name, verdict.judgement.difference) == ("members-2", pytest.approx(0.1))
    assert verdict.family.where == "digits, preset tiny, linf 8/255, after linf 4/255, suite quick, test split"
