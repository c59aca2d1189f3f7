"""Runs whose images' fate is planted, for tests of verdicts."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from synthetic_runs import make_record, write

from ensemble_bench.records import (
    find_records,
)
from ensemble_bench.registry import RECIPES
from ensemble_bench.reports.verdicts import Verdict, verdicts

Bools = NDArray[np.bool_]
SEEDS = (0, 1, 2)
TRAINED: dict[str, Any] = {"changes": {}, "steps": 100, "match": "params", "settings": {"rate": 0.1}}


def changed(**changes: Any) -> dict[str, Any]:
    """How a run was trained of which the user changed so much."""
    return TRAINED | {"changes": changes, **{key: value for key, value in changes.items() if key in ("steps", "match")}}


def planted(root: Path, recipe: str, robust: Bools, **fields: Any) -> Path:
    """A record of `recipe` whose model withstands sweep10 on the images where `robust` holds."""
    about = {"suite": "quick", "recipe": recipe, **fields}
    record, samples = make_record([True] * len(robust), {"sweep10": list(map(bool, robust))}, **about)
    return write(record, samples, root / record.run)


def first(n: int, count: int) -> Bools:
    """True on the first `count` of n images."""
    return np.arange(n) < count


def three(root: Path, recipe: str, *counts: int, n: int = 1000, **fields: Any) -> list[Bools]:
    """Runs of a recipe, a seed each, that withstand the attack on so many of the first images."""
    robust = [first(n, count) for count in counts]
    joins = RECIPES[recipe].joins if recipe in RECIPES else 0
    for seed, found in enumerate(robust):
        seeds = tuple(range(joins * seed, joins * seed + joins)) if joins else (seed,)
        planted(root, recipe, found, seeds=seeds, **fields)
    return robust


def verdict_on(root: Path, name: str = "wider-2") -> Verdict:
    (found,) = [verdict for verdict in verdicts(find_records(root)) if verdict.claim.name == name]
    return found
