"""docs/tuning.md: rendered from its tables, and the presets hold the rates that it says were taken."""

import sys
from pathlib import Path

import pytest

from ensemble_bench.registry import RECIPES
from ensemble_bench.training.presets import PRESETS

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import tuning  # noqa: E402


def _row(recipe: str, rate: float, seed: int, pgd20: float, decay: float = 5e-4) -> dict[str, object]:
    about = {
        "recipe": recipe,
        "learning_rate": rate,
        "weight_decay": decay,
        "width": 1.0,
        "steps": 10.0,
        "seed": seed,
        "n": 100.0,
    }
    return {**about, "clean": 0.9, "fgsm": 0.5, "ifgsm7": 0.5, "pgd20": pgd20}


def test_the_page_is_that_of_its_tables() -> None:
    assert tuning.PAGE.read_text(encoding="utf-8") == tuning.page()


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
        *(_row("singleadv", 0.2, seed, accuracy) for seed, accuracy in ((1000, 0.3), (1001, 0.5))),
        *(_row("singleadv", 0.4, seed, accuracy) for seed, accuracy in ((1000, 0.45), (1001, 0.4))),
        _row("singleadv", 0.8, 1000, 0.9, decay=1e-4),  # not of the grid
    ]
    assert tuning.tuned(rows, 5e-4) == {"singleadv": 0.4}
