"""docs/tuning.md says which rates its tables favour, and the presets hold these."""

import json
import sys
from pathlib import Path

import pytest

from ensemble_bench.registry import RECIPES
from ensemble_bench.training.presets import PRESETS

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import tuning  # noqa: E402

SEEDS = tuning.SEEDS


def _row(
    recipe: str, rate: float, seed: int, pgd20: float, decay: float = 5e-4, clean: float = 0.9
) -> dict[str, object]:
    about = {
        "recipe": recipe,
        "learning_rate": rate,
        "weight_decay": decay,
        "width": 1.0,
        "crop": 4,
        "steps": 10.0,
        "seed": seed,
        "data_name": "cifar10-jpeg",
        "n": 100.0,
        "precision": "float32",
    }
    return {**about, "clean": clean, "fgsm": 0.5, "ifgsm7": 0.5, "pgd20": pgd20}


def test_a_copy_of_a_data_set_goes_by_its_own_name() -> None:
    assert "## cifar10-jpeg, preset cpu\n" in tuning.page()


@pytest.mark.parametrize("path", sorted(tuning.TABLES.glob("*.csv")), ids=lambda path: path.stem)
def test_presets_hold_what_was_taken(path: Path) -> None:
    dataset, preset = path.stem.rsplit("-", 1)
    rows = tuning.read(path)
    assert {row["recipe"] for row in rows} <= RECIPES.keys()
    # No result uses a seed of the tuning: those count from 0, and joined ones a few times as far.
    assert all(row["seed"] >= min(tuning.SEEDS) for row in rows)
    for recipe, rate in tuning.tuned(rows, PRESETS[preset].on(dataset).weight_decay).items():
        assert PRESETS[preset].on(dataset, recipe).learning_rate == rate


def test_the_highest_mean_over_seeds_is_taken() -> None:
    rows = [
        *(
            _row(recipe, rate, seed, 0.2)
            for recipe in ("singleadv", "baseline")
            for rate in (0.8, 1.6)
            for seed in SEEDS
        ),
        *(_row("singleadv", 0.2, seed, accuracy) for seed, accuracy in zip(SEEDS, (0.3, 0.5), strict=True)),
        *(_row("singleadv", 0.4, seed, accuracy) for seed, accuracy in zip(SEEDS, (0.45, 0.4), strict=True)),
        _row("singleadv", 0.8, SEEDS[0], 0.9, decay=1e-4),  # not of the grid
        # Learns from clean images alone, and is judged by these.
        *(_row("baseline", 0.2, seed, 0.9) for seed in SEEDS),
        *(_row("baseline", 0.4, seed, 0.1, clean=0.95) for seed in SEEDS),
    ]
    assert tuning.tuned(rows, 5e-4) == {"singleadv": 0.4, "baseline": 0.4}


@pytest.mark.parametrize("other", [{"width": 2.0}, {"crop": 2}, {"steps": 4212.0}, {"precision": "bf16"}])
def test_what_was_trained_otherwise_is_no_try_of_the_same(other: dict[str, object]) -> None:
    rows = [_row("singleadv", rate, SEEDS[0], 0.5 - rate / 10) for rate in tuning.RATES]
    better = [{**row, **other, "pgd20": 0.9} for row in rows if row["learning_rate"] == 0.8]
    assert tuning.tuned([*rows, *better], 5e-4) == {"singleadv": 0.2}
    assert len(tuning.means([*rows, *better])) == len(tuning.RATES) + 1


def test_no_rate_is_taken_before_all_were_tried() -> None:
    rows = [_row("singleadv", rate, SEEDS[0], 0.4) for rate in tuning.RATES]
    assert tuning.tuned(rows, 5e-4) == {"singleadv": min(tuning.RATES)}
    for missing in range(len(rows)):
        assert tuning.tuned([*rows[:missing], *rows[missing + 1 :]], 5e-4) == {}


def test_finished_runs_are_added_to_what_the_tables_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "TABLES", tmp_path / "tables")
    for seed, pgd20 in ((1000, 0.3), (1001, 0.4)):
        run = tmp_path / f"runs-{seed}" / "digits-tiny" / "one"
        run.mkdir(parents=True)
        settings = {"evaluate_n": 9, "learning_rate": 0.2, "weight_decay": 5e-4, "crop": 2, "network": {"width": 1.0}}
        validation = {"clean": 0.9, "fgsm": 0.5, "ifgsm7": 0.5, "pgd20": pgd20}
        meta = {"recipe": "singleadv", "step": 5, "seed": seed, "settings": settings, "validation": validation}
        meta |= {"precision": "bf16", "data_name": "digits"}
        (run / "averaged.json").write_text(json.dumps({"meta": meta}))
        tuning.collect(tmp_path / f"runs-{seed}")
    tuning.collect(tmp_path / "runs-1000")
    assert [(r["seed"], r["pgd20"]) for r in tuning.read(tmp_path / "tables/digits-tiny.csv")] == [
        (1000, 0.3),
        (1001, 0.4),
    ]
