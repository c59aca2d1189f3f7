"""What a verdict compares: the same images, attacks, conditions and as many evaluations, and each model once."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from planted_verdicts import SEEDS, Bools, first, planted, three, verdict_on
from synthetic_runs import HASH, make_record, write

from ensemble_bench.errors import RecordError
from ensemble_bench.records import (
    AttackResult,
    Blackbox,
    Record,
    Search,
    find_records,
    identify,
    write_record,
)
from ensemble_bench.reports import worst_cases
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


def test_the_most_images_on_which_a_test_is_possible(tmp_path: Path) -> None:
    three(tmp_path, "ensemble2adv", 500, 500, 500)
    three(tmp_path, "doubleadv", 400, 400)
    planted(tmp_path, "doubleadv", first(700, 390), seeds=(2,))
    assert (verdict_on(tmp_path).images, verdict_on(tmp_path).right[0].seeds) == (700, "0, 1, 2")


def test_models_that_share_a_network_or_a_seed_do_not_count_twice(tmp_path: Path) -> None:
    three(tmp_path, "ensemble2adv", 500, 500, 500)
    for seeds in ((0, 1), (1, 2), (2, 3)):
        planted(tmp_path, "separate2adv", first(1000, 400), seeds=seeds)
    planted(tmp_path, "ensemble2adv", first(1000, 500), seeds=(0,), model="twice/best")
    verdict = verdict_on(tmp_path, "apart-2")
    assert [row.seeds for row in (*verdict.left, *verdict.right)] == ["0, 1, 2", "0+1, 2+3"]
    assert "needs at least 3 seeds of separate2adv" in str(verdict)
    (note,) = [n for n in notes_on_missing_verdicts(find_records(tmp_path)) if "another run has its seed" in n]
    assert "separate2adv-digits-tiny-s1" in note


def test_rows_of_one_recipe_are_judged_apart_and_named(tmp_path: Path) -> None:
    three(tmp_path, "ensemble2adv", 500, 500, 500)
    for match, parameters in (("params", 20_000), ("flops", 19_000)):
        for seed in SEEDS:
            about = {"seeds": (seed,), "parameters": parameters, "model": f"doubleadv-{match}-s{seed}/best"}
            planted(tmp_path, "doubleadv", first(1000, 400), **about)
    found = [v for v in verdicts(find_records(tmp_path)) if v.claim.name == "wider-2"]
    labels = [v.right[0].label for v in found]
    assert labels == ["doubleadv (19000 parameters)", "doubleadv (20000 parameters)"]
    assert [v.parameters for v in found] == [0.95, 1.0]
    assert {v.judgement.tested for v in found} == {2}


def trained(monkeypatch: pytest.MonkeyPatch, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """Let runs whose name starts with a key have been trained with these changes, the others without any."""

    def training(record: Record) -> dict[str, Any]:
        made = next((about for name, about in changes.items() if record.run.startswith(name)), {})
        return {"changes": dict(made), "steps": 100, "match": made.get("match", "params"), "settings": {"rate": 0.1}}

    monkeypatch.setattr(worst_cases, "_training", training)


def test_runs_that_were_all_changed_alike_are_a_family_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    three(tmp_path, "ensemble2adv", 500, 500, 500)
    three(tmp_path, "doubleadv", 400, 400, 400)
    for recipe, count in (("ensemble2adv", 300), ("doubleadv", 350), ("singleadv", 200)):
        for seed in SEEDS:
            planted(tmp_path, recipe, first(1000, count), seeds=(seed,), model=f"long-{recipe}-s{seed}/best")
    trained(monkeypatch, {"long-singleadv": {"eps": 0.01}, "long": {"steps": 200}})
    found = {v.family.where.partition("split")[2]: v for v in verdicts(find_records(tmp_path))}
    assert {where: round(v.judgement.difference, 3) for where, v in found.items()} == {
        "": 0.1,
        ", with steps=200": -0.05,
    }


def test_what_a_wider_network_is_matched_on_makes_two_rows_of_one_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    three(tmp_path, "ensemble2adv", 500, 500, 500)
    three(tmp_path, "doubleadv", 400, 400, 400)
    for seed in SEEDS:
        planted(tmp_path, "doubleadv", first(1000, 450), seeds=(seed,), model=f"flops-s{seed}/best")
    trained(monkeypatch, {"flops": {"match": "flops"}})
    found = {v.right[0].label: v.judgement.difference for v in verdicts(find_records(tmp_path))}
    assert found == {"doubleadv (match=params)": pytest.approx(0.1), "doubleadv (match=flops)": pytest.approx(0.05)}


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
