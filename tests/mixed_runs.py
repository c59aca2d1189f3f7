"""A folder of runs that no mean may mix: objectives, lengths, attacks, doubled seeds, old and new records."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from synthetic_runs import make_record, write, write_curves

from ensemble_bench.records import training_of
from ensemble_bench.records.curves import ATTACKS

N = 100
SETTINGS: Mapping[str, Any] = {
    "train_attack": "nfgsm",
    "learning_rate": 0.2,
    "network": {"width": 1},
    "evaluate_n": 144,
}
# Robust images of N of each seed of the unchanged preset: the mean is 87.0, the sample deviation 1.7 (√3).
ROBUST = {0: 86, 1: 89, 2: 86}
MEAN, SD = 0.87, 3**0.5 / 100
# Seeds whose training was changed, with the row that they belong in.
CHANGED: Mapping[int, tuple[Mapping[str, Any], str]] = {
    3: ({"objective": "adp", "steps": 200}, "ensemble2adv, objective adp, 200 steps"),
    4: ({"steps": 200}, "ensemble2adv, 200 steps"),
    5: ({"train_attack": "ifgsm7"}, "ensemble2adv, train attack ifgsm7"),
    6: ({"eps": 4 / 255, "learning_rate": 0.1}, "ensemble2adv, eps 4/255, learning rate 0.1"),
}


def described(seed: int, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What run.json says of an ensemble2adv of that seed; without `changes` it is one from before that key."""
    changed = changes or {}
    settings = dict(SETTINGS) | {key: value for key, value in changed.items() if key in SETTINGS}
    about: dict[str, Any] = {
        "recipe": "ensemble2adv",
        "seed": seed,
        "seeds": [seed],
        "steps": changed.get("steps", 400),
        "objective": changed.get("objective", "ensemble"),
        "match": None,
        "threat": {"norm": "linf", "eps": changed.get("eps", 8 / 255)},
        "settings": settings,
    }
    return about if changes is None else about | {"changes": dict(changes)}


def build_mixed(root: Path) -> Path:
    """Fill `root`: seeds 0 to 2 of one training, 3 to 6 of four others, seed 1 again in another folder, 2 scored twice.

    Seed 0 is from before records and run.json held what was changed. The doubled seed withstands 10 images more, and
    the second evaluation of seed 2 leaves one image more standing.
    """
    add(root / name_of(0), 0, ROBUST[0], None)
    for seed in (1, 2):
        add(root / name_of(seed), seed, ROBUST[seed], {})
    for seed, (changes, _) in CHANGED.items():
        add(root / name_of(seed), seed, 20 + seed, changes)
    add(root / "copy" / name_of(1), 1, ROBUST[1] + 10, {})
    add(root / name_of(2), 2, ROBUST[2] + 1, {}, again=True)
    return root


def name_of(seed: int) -> str:
    """Default name of the run."""
    return f"ensemble2adv-digits-tiny-s{seed}"


def add(run: Path, seed: int, robust: int, changes: Mapping[str, Any] | None, *, again: bool = False) -> None:
    """A run with curves that end at robust/N, and its records of the suites paper, quick and strongest."""
    about = described(seed, changes)
    length = about["steps"] // 10
    points = {"step": [10 * (i + 1) for i in range(length)]}
    columns = points | {metric: [robust / N] * length for metric in ("clean", *ATTACKS)}
    recipe, seed = about.pop("recipe"), about.pop("seed")
    if not again:
        write_curves(run, recipe, seed, columns, **about)
    fields: dict[str, Any] = {"recipe": "ensemble2adv", "seeds": (seed,), "flops": None}
    fields["training"] = None if changes is None else training_of(about)
    right = [index < robust for index in range(N)]
    most = [index < 99 for index in range(N)]
    for suite, attacks in (
        ("paper", {"ifgsm5": most, "pgd20": right}),
        ("quick", {"sweep10": right}),
        ("strongest", {"pgd20": most, "mora100": right}),
        ("quick+mora50", {"sweep10": most, "mora50": right}),
    ):
        record, samples = make_record([True] * N, attacks, suite=suite, cascade=suite != "paper", **fields)
        record = replace(
            record,
            id=("f" if again else "0") + record.id[1:],
            seed=int(again),
            attacks=tuple(
                replace(a, passes=seed, curve=(1.0, a.robust / N) if suite == "paper" else None) for a in record.attacks
            ),
        )
        write(record, samples, run)
