"""The plan: which trainings and evaluations there are, of what seeds and sizes, and what each waits for."""

from dataclasses import replace
from pathlib import Path

import pytest

from ensemble_bench.errors import InvalidValueError, UnknownNameError
from ensemble_bench.experiment.plan import BLACKBOX, Experiment, Job, experiment_of, jobs_of, kept, weightless
from ensemble_bench.experiment.sizes import LARGE, SIZES, Scored, sizes_of
from ensemble_bench.leaderboard.rules import PRECISION, Rules
from ensemble_bench.registry import PRESETS, RECIPES, suite_of

OUT = Path("runs/x")


def an_experiment(
    *recipes: str,
    seeds: int = 3,
    dataset: str = "digits",
    preset: str = "tiny",
    test_images: int = 360,
    block: int = 1024,
    most: int | None = None,
) -> Experiment:
    return experiment_of(
        dataset=dataset,
        data_name=dataset,
        data_dir=None,
        preset=preset,
        seeds=seeds,
        out=OUT,
        test_images=test_images,
        eps=32 / 255,
        block=block,
        recipes=recipes,
        most=most,
    )


def trainings(jobs: list[Job]) -> list[tuple[str, int]]:
    return [(job.arguments["recipe"], job.arguments["seed"]) for job in jobs if job.call == "train"]


def test_every_recipe_over_all_seeds_and_the_costly_ones_over_fewer() -> None:
    jobs = jobs_of(an_experiment())
    seeds: dict[str, list[int]] = {}
    for recipe, seed in trainings(jobs):
        seeds.setdefault(recipe, []).append(seed)
    assert set(seeds) == set(RECIPES)
    assert seeds.pop("singleadv") == [0, 1, 2, 3, 4, 5]  # three for itself, two for each of three ensembles
    assert {recipe: found for recipe, found in seeds.items() if recipe in LARGE} == {recipe: [0] for recipe in LARGE}
    assert all(found == [0, 1, 2] for recipe, found in seeds.items() if recipe not in LARGE)


def test_ensembles_of_separate_networks_share_none() -> None:
    assert [RECIPES["separate2adv"].joined_seeds(seed) for seed in range(3)] == [[0, 1], [2, 3], [4, 5]]
    assert RECIPES["singleadv"].joined_seeds(3) == []
    jobs = {job.name: job for job in jobs_of(an_experiment("separate2adv"))}
    needs = [jobs[f"train separate2adv-digits-tiny-s{seed}"].needs for seed in range(3)]
    assert [len(found) for found in needs] == [2, 2, 2]
    assert len({name for found in needs for name in found}) == 6
    # Networks that are trained to be joined alone are scored with the suite of Tables 1a and 1b.
    columns = {job.column for job in jobs.values() if job.row == "singleadv-digits-tiny-s5"}
    assert columns == {"train", "paper"}


@pytest.mark.parametrize("preset", PRESETS)
def test_names_are_unique_and_what_is_needed_stands_before(preset: str) -> None:
    jobs = jobs_of(an_experiment(dataset="cifar10", preset=preset, test_images=10_000))
    seen: set[str] = set()
    for job in jobs:
        assert job.name not in seen
        assert seen.issuperset(job.needs), job
        seen.add(job.name)
    for row in {job.row for job in jobs}:
        for column in {job.column for job in jobs if job.row == row}:
            shares = [job.share for job in jobs if (job.row, job.column) == (row, column)]
            assert sum(shares) == pytest.approx(1)


def test_a_stopped_experiment_has_whole_runs_of_the_first_seed() -> None:
    rows = list(
        dict.fromkeys(job.row for job in jobs_of(an_experiment("baseline", "ensemble4adv", "ensemble2adv", seeds=2)))
    )
    assert [row.partition("-")[0] + row[-1] for row in rows[1:]] == [
        *("baseline0", "ensemble2adv0", "baseline1", "ensemble2adv1", "ensemble4adv0"),
    ]


def test_evaluations_wait_for_the_weights_and_for_the_set_that_they_use() -> None:
    jobs = {job.name: job for job in jobs_of(an_experiment("baseline", seeds=1))}
    train = "train baseline-digits-tiny-s0"
    assert jobs["paper baseline-digits-tiny-s0"].needs == (train, BLACKBOX)
    assert jobs["paper baseline-digits-tiny-s0 (last)"].arguments["checkpoint"] == "last"
    assert jobs["quick baseline-digits-tiny-s0"].needs == (train,)


def test_small_test_sets_are_used_whole_and_n_bounds_every_suite() -> None:
    assert {job.arguments["n"] for job in jobs_of(an_experiment(seeds=1)) if job.column == "paper"} == {360}
    assert {job.arguments["n"] for job in jobs_of(an_experiment(seeds=1, most=7)) if job.call == "evaluate"} == {7}


def test_a_large_evaluation_is_one_job_a_block_and_then_the_record() -> None:
    jobs = jobs_of(
        an_experiment("baseline", seeds=1, dataset="cifar10", preset="small", test_images=10_000, block=4000)
    )
    quick = [job for job in jobs if job.column == "quick"]
    assert [job.arguments.get("block") for job in quick] == [0, 1, 2, None]
    assert quick[-1].needs[-3:] == tuple(job.name for job in quick[:3])


def test_suites_can_be_for_some_recipes_and_seeds() -> None:
    experiment = replace(
        an_experiment("baseline", "singleadv", seeds=2),
        suites={"quick": Scored(images=9, recipes=("singleadv",), seeds=1)},
    )
    jobs = jobs_of(experiment)
    assert [job.row for job in jobs if job.column == "quick"] == ["singleadv-digits-tiny-s0"]
    assert BLACKBOX not in {job.name for job in jobs}


def test_the_sizes_name_what_exists() -> None:
    assert set(SIZES) >= set(PRESETS)
    assert set(LARGE) <= set(RECIPES)
    for preset in SIZES:
        sizes = sizes_of(preset, "digits")
        assert sizes is SIZES[preset] or set(sizes.suites) == set(SIZES["cpu"].suites)
    for sizes in (*SIZES.values(), sizes_of("cpu", "digits")):
        assert {suite_of(name).name for name in sizes.suites} == set(sizes.suites)
        assert {recipe for scored in sizes.suites.values() for recipe in scored.recipes or ()} <= set(RECIPES)


def test_the_suite_that_boards_rank_by_is_run_as_they_run_it() -> None:
    jobs = jobs_of(replace(an_experiment("baseline", preset="cpu"), precision="bf16"))
    precisions = {job.column: job.arguments["precision"] for job in jobs if job.call == "evaluate"}
    assert precisions.pop(Rules().suite) == PRECISION
    assert set(precisions.values()) == {"bf16"}


def test_the_digits_have_every_suite_and_seed_but_at_tiny() -> None:
    jobs = jobs_of(an_experiment(preset="cpu"))
    assert {seed for recipe, seed in trainings(jobs) if recipe in LARGE} == {0, 1, 2}
    assert {job.arguments["n"] for job in jobs if job.call == "evaluate"} == {360}
    assert "autoattack" not in {job.column for job in jobs_of(an_experiment(preset="tiny"))}


@pytest.mark.parametrize(
    ("choice", "error", "message"),
    [
        ({"recipes": ("singleavd",)}, UnknownNameError, "did you mean singleadv"),
        ({"recipes": ("baseline", "baseline")}, InvalidValueError, "'baseline' stands twice"),
        ({"seeds": 0}, InvalidValueError, "seeds is 0"),
        ({"preset": "huge"}, UnknownNameError, "unknown preset 'huge'"),
    ],
)
def test_what_is_wrong_is_named(choice: dict[str, object], error: type[Exception], message: str) -> None:
    options = {
        "dataset": "digits",
        "data_name": "digits",
        "data_dir": None,
        "preset": "tiny",
        "seeds": 1,
        "out": OUT,
        "test_images": 10,
        "eps": 0.1,
        "block": 10,
        **choice,
    }
    with pytest.raises(error, match=message):
        experiment_of(**options)  # type: ignore[arg-type]


def test_a_curve_over_eps_is_there_once_all_its_records_are(tmp_path: Path) -> None:
    experiment = replace(an_experiment("baseline", seeds=1, preset="cpu"), out=tmp_path)
    (curve,) = [job for job in jobs_of(experiment) if len(job.arguments.get("eps", ())) > 1]
    assert curve.arguments["eps"] == pytest.approx([level / 255 for level in (8, 16, 24, 32, 40, 48)])
    run = tmp_path / "baseline-digits-cpu-s0"
    run.mkdir()
    (run / "averaged.json").write_text("{}")
    for level in (8, 16, 24, 32, 40, 48):
        assert curve.name not in kept([curve])
        record = run / "evaluations" / f"{curve.column}-averaged-n360-linf{level}of255-0123abcd" / "record.json"
        record.parent.mkdir(parents=True)
        record.write_text("{}")
    assert curve.name in kept([curve])


def test_what_lies_there_is_kept(tmp_path: Path) -> None:
    experiment = replace(an_experiment("baseline", seeds=1), out=tmp_path)
    jobs = jobs_of(experiment)
    assert kept(jobs) == frozenset()
    run = tmp_path / "baseline-digits-tiny-s0"
    record = run / "evaluations" / "quick-averaged-n360-linf32of255-0123abcd" / "record.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    assert kept(jobs) == frozenset()  # the run tells of no such weights
    for name in ("averaged", "last"):
        (run / f"{name}.json").write_text("{}")
    assert kept(jobs) == {"train baseline-digits-tiny-s0", "quick baseline-digits-tiny-s0"}


def test_a_record_of_the_last_weights_is_none_of_the_headline(tmp_path: Path) -> None:
    jobs = jobs_of(replace(an_experiment("baseline", seeds=1), out=tmp_path))
    run = tmp_path / "baseline-digits-tiny-s0"
    record = run / "evaluations" / "paper-last-n360-linf32of255-0123abcd" / "record.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    for name in ("best", "last"):
        (run / f"{name}.json").write_text("{}")
    assert kept(jobs) == {"train baseline-digits-tiny-s0", "paper baseline-digits-tiny-s0 (last)"}


def test_weights_that_finished_runs_do_not_hold_are_not_scored(tmp_path: Path) -> None:
    jobs = jobs_of(replace(an_experiment("separate2adv", seeds=2), out=tmp_path))
    assert weightless(jobs) == frozenset()
    for seed in (0, 1, 2):  # as benchmarks/keep_runs.py leaves them
        run = tmp_path / f"singleadv-digits-tiny-s{seed}"
        run.mkdir()
        for name in ("averaged.json", "averaged.safetensors", "last.json"):
            (run / name).write_text("{}")
    rows = [f"singleadv-digits-tiny-s{seed}" for seed in (0, 1, 2)] + [f"separate2adv-digits-tiny-s{s}" for s in (0, 1)]
    assert weightless(jobs) == {f"paper {row} (last)" for row in rows}  # of the last ensemble one member is trained yet
    joined = tmp_path / "separate2adv-digits-tiny-s0"
    joined.mkdir()
    for name in ("averaged.json", "averaged.safetensors", "last.json", "last.safetensors"):
        (joined / name).write_text("{}")
    assert f"paper {joined.name} (last)" not in weightless(jobs)  # joined while its members had theirs
    for name in ("averaged", "last"):
        (joined / f"{name}.safetensors").unlink()
    assert weightless(jobs) == {f"paper {row} (last)" for row in rows}  # the members have their averages: joined again
    (tmp_path / "singleadv-digits-tiny-s1" / "averaged.safetensors").unlink()
    assert {f"paper {joined.name}", f"quick {joined.name}"} <= weightless(jobs)


def test_every_job_is_told_what_nodes_must_not_decide_by_themselves() -> None:
    jobs = jobs_of(replace(an_experiment("separate2adv", block=100), precision="float32", compile=False))
    assert {job.arguments["precision"] for job in jobs if job.name != BLACKBOX} == {"float32"}
    assert {job.arguments["compile"] for job in jobs if job.call in ("evaluate", "block")} == {False}
