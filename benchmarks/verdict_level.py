"""How often verdicts are wrong where no claim is true, and how often they find two points, in simulated factorials.

    python benchmarks/verdict_level.py [--factorials 4000] [--bootstraps 1000] [--save]

First table, which docs/claims.md shows: all claims of a family, judged as reports do. "wrong": families without a true
claim in which any is shown or reversed; "without the pool": the same with each claim's own variance between seeds
alone. "found": how often the claim wider-2 is shown where ensemble2adv is two points above all other recipes. Second
table: one claim between two equal recipes, at 5 % and at the strictest level of Holm's correction over all claims, by
ours and by the two-level bootstrap (seeds, then images, 999 times): its percentiles, and studentised by the standard
error of ours.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, save
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from factorials import CLAIMS, MARGINS, RECIPES, arrays, judged, simulate

from ensemble_bench.records.contrasts import PSEUDO_IMAGES, contrast, holm, seed_variance

POINT = 0.01
SPREADS: dict[str, float | dict[str, float]] = {
    **{f"{points:g}": points * POINT for points in (0.0, 0.3, 1.0, 2.0)},
    "0.1 or 1": {recipe: (0.1 if i % 2 else 1.0) * POINT for i, recipe in enumerate(RECIPES)},
}
RESAMPLES = 999


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--factorials", type=int, default=4000)
    parser.add_argument("--bootstraps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="write the first table to benchmarks/results")
    options = parser.parse_args()
    found = {"seeds": options.seeds, "factorials": options.factorials, "rows": []}
    for row in families(options.factorials, options.seeds):
        found["rows"].append(row)
        print(row, flush=True)
    print(f"\n{table(found)}")
    if options.save:
        save("verdict_level", found)
    if options.bootstraps:
        bootstraps(options.bootstraps, options.seeds)


def families(times: int, seeds: int) -> Iterator[dict[str, Any]]:
    """Rows of the first table, with numbers of simulated families."""
    for n in (1_000, 10_000):
        for name, spread in SPREADS.items():
            generator = np.random.default_rng(0)
            wrong = own = found = 0
            for _ in range(times):
                null = simulate(generator, n=n, seed_sd=spread, seeds=seeds)
                wrong += any(judgement.outcome != "not shown" for judgement in judged(null))
                sides = [(claim, *arrays(claim, null)) for claim in CLAIMS.values()]
                own += min(holm([contrast(a, b, null=claim.margin).p_value for claim, a, b in sides])) < 0.05
                gains = {**MARGINS, "ensemble2adv": 2 * POINT}
                true = judged(simulate(generator, n=n, seed_sd=spread, seeds=seeds, gains=gains))
                found += next(j.outcome == "shown" for j in true if j.claim.name == "wider-2")
            yield {"images": n, "points": name, "wrong": wrong, "own": own, "found": found}


def table(found: Mapping[str, Any] | None = None) -> str:
    """The first table, by default of what was saved."""
    found = found or json.loads((RESULTS / "verdict_level.json").read_text(encoding="utf-8"))
    times = found["factorials"]
    lines = [
        f"In percent, ± standard error, of {times:,} simulated families a row, {found['seeds']} seeds a recipe.\n",
        "| images | points between seeds | wrong | without the pool | found |",
        "| --: | --: | --: | --: | --: |",
    ]
    for row in found["rows"]:
        cells = " | ".join(share(row[column], times) for column in ("wrong", "own", "found"))
        lines.append(f"| {row['images']:,} | {row['points']} | {cells} |")
    return "\n".join(lines) + "\n"


def bootstraps(times: int, seeds: int) -> None:
    levels = (0.05, 0.05 / len(CLAIMS))
    print(f"\n{seeds} seeds, {times} pairs of equal recipes: percent called different at 5 % and at {levels[1]:.2%}")
    print("| images | points between seeds | ours | percentile bootstrap | studentised bootstrap |")
    print("| --: | --: | --: | --: | --: |")
    for n in (1_000, 10_000):
        for points in (0.0, 0.3, 1.0, 2.0):
            generator = np.random.default_rng(0)
            p_values = []
            for _ in range(times):
                pair = simulate(generator, n=n, seed_sd=points * POINT, seeds=seeds, gains={})
                left, right = pair["ensemble2adv"], pair["doubleadv"]
                ours = contrast([left], [right], pooled=seed_variance(pair.values())).p_value
                p_values.append((ours, *resampled(left, right, generator)))
            called = np.array([[np.mean(column < level) for level in levels] for column in np.array(p_values).T])
            cells = " | ".join(f"{100 * a:.1f}, {100 * b:.1f}" for a, b in called)
            print(f"| {n} | {points:g} | {cells} |", flush=True)


def resampled(left: NDArray[np.bool_], right: NDArray[np.bool_], generator: np.random.Generator) -> tuple[float, float]:
    """p-values of the percentile and of the studentised two-level bootstrap."""
    models = np.vstack([left, right])
    n, seeds = models.shape[1], len(left)
    # Images on which all models agree in the same way are one pattern: resampling images resamples counts of patterns.
    patterns, counts = np.unique(models.T, axis=0, return_counts=True)
    images = generator.multinomial(n, counts / n, size=RESAMPLES)
    weights = generator.multinomial(seeds, [1 / seeds] * seeds, size=(2, RESAMPLES)) / seeds
    differences, errors = studentised(images, weights, patterns.astype(float), n)
    (true,), (error,) = studentised(counts[None], np.full((2, 1, seeds), 1 / seeds), patterns.astype(float), n)
    tails = min((differences <= 0).sum(), (differences >= 0).sum())
    beyond = (np.abs(differences - true) / errors >= abs(true) / error).sum()
    return min(1.0, 2 * (1 + tails) / (RESAMPLES + 1)), (1 + beyond) / (RESAMPLES + 1)


def studentised(
    images: NDArray[np.int64], weights: NDArray[np.float64], patterns: NDArray[np.float64], n: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Differences and their standard errors: a row of `images` (counts of patterns) and of `weights` each resample."""
    seeds = weights.shape[2]
    by_pattern = weights[0] @ patterns[:, :seeds].T - weights[1] @ patterns[:, seeds:].T
    difference = (images * by_pattern).sum(1) / n
    squares = (images * by_pattern**2).sum(1) - n * difference**2
    variance = (squares + PSEUDO_IMAGES) / (n + PSEUDO_IMAGES) ** 2
    means = (images @ patterns / n).reshape(-1, 2, seeds)
    for side in range(2):
        mean = (weights[side] * means[:, side]).sum(1)
        variance += ((weights[side] * means[:, side] ** 2).sum(1) - mean**2) / (seeds - 1)
    return difference, np.sqrt(variance)


def share(count: int, times: int) -> str:
    rate = count / times
    return f"{100 * rate:.1f} ± {100 * sqrt(rate * (1 - rate) / times):.1f}"


if __name__ == "__main__":
    main()
