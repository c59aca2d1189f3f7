"""Tunes the learning rate of every recipe on validation images: one grid, one budget, seeds that no result uses.

    python benchmarks/tuning.py --dataset digits --preset tiny --rates 0.2 0.4 0.8 1.6
    python benchmarks/tuning.py --collect

A recipe is trained once a rate and seed, into a folder of its own under --runs; what exists is kept. `--set steps=700`
shortens every training alike. Beside the grid stands what an ensemble of k members gets out of k times the loss: with
SGD that is k times the rate at a k-th of the weight decay. Accuracies are those of the running average of the weights
on validation images, as the trainer writes them. Rows are added to docs/tuning/*.csv, so that one table can be made on
several machines; `make pages` renders docs/tuning.md from these, and a test holds the presets to what it says.
"""

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TABLES = ROOT / "docs/tuning"
SEEDS = (1000, 1001)
RATES = (0.2, 0.4, 0.8, 1.6)
# Only trainings that these are equal for can say which rate is better.
ALIKE = ("width", "crop", "steps", "precision")
KEYS = ("recipe", "learning_rate", "weight_decay", "width", "crop", "steps", "seed", "precision")
ACCURACIES = ("clean", "fgsm", "ifgsm7", "pgd20")
COLUMNS = (*KEYS[:-1], "data_name", "n", "precision", *ACCURACIES)
TIMES_K = "k times the loss"
Row = Mapping[str, Any]
# Recipe, the values of ALIKE, rate, weight decay.
Cell = tuple[str, tuple[Any, ...], float, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--recipes", nargs="+", help="by default all that train something")
    parser.add_argument("--rates", nargs="+", type=float, default=list(RATES))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/tuning")
    parser.add_argument("--collect", action="store_true", help="train nothing, only collect what was trained")
    options = parser.parse_args()
    if not options.collect:
        run(options)
    collect(options.runs)


def run(options: argparse.Namespace) -> None:
    """Trains the grid, rate by rate, so that an interrupted tuning has whole columns."""
    import torch

    from ensemble_bench.registry import RECIPES
    from ensemble_bench.training.presets import PRESETS
    from ensemble_bench.training.trainer import train

    torch.set_num_threads(1)
    recipes = options.recipes or [name for name, recipe in RECIPES.items() if not recipe.joins]
    common = dict(pair.split("=", 1) for pair in options.settings)
    for seed in options.seeds:
        for rate in [*options.rates, None]:
            for recipe in recipes:
                base = PRESETS[options.preset].on(options.dataset)
                members = RECIPES[recipe].members
                if rate is None and members == 1:
                    continue
                asked = {"learning_rate": rate, "weight_decay": base.weight_decay}
                if rate is None:
                    asked = {
                        "learning_rate": members * base.learning_rate,
                        "weight_decay": base.weight_decay / members,
                    }
                variant = f"lr{asked['learning_rate']:g}-wd{asked['weight_decay']:g}"
                out = options.runs / f"{options.dataset}-{options.preset}" / f"{recipe}-{variant}-s{seed}"
                train(
                    recipe,
                    dataset=options.dataset,
                    data_dir=options.data_dir,
                    preset=options.preset,
                    seed=seed,
                    settings=common | asked,
                    out=out,
                    resume=True,
                )
                print(out.name, flush=True)


def collect(runs: Path) -> None:
    """Adds the finished runs to docs/tuning/<data>-<preset>.csv, rows in the order of recipe, rate and seed."""
    for folder in sorted(path for path in runs.glob("*") if path.is_dir()):
        metas = [json.loads(path.read_text(encoding="utf-8"))["meta"] for path in folder.glob("*/averaged.json")]
        if not metas:
            continue
        path = TABLES / f"{folder.name}.csv"
        known = read(path) if path.exists() else []
        rows = {tuple(row[name] for name in KEYS): row for row in (*known, *map(_row, metas))}
        TABLES.mkdir(exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows[key] for key in sorted(rows))


def _row(meta: Mapping[str, Any]) -> Row:
    settings = meta["settings"]
    about = {"recipe": meta["recipe"], "steps": meta["step"], "seed": meta["seed"], "n": settings["evaluate_n"]}
    about |= {name: settings[name] for name in ("learning_rate", "weight_decay", "crop")}
    about |= {"width": settings["network"]["width"], "precision": meta["precision"], "data_name": meta["data_name"]}
    return about | {name: meta["validation"][name] for name in ACCURACIES}


def read(path: Path) -> list[dict[str, Any]]:
    """Rows of a table, numbers as numbers."""
    texts, counts = ("recipe", "data_name", "precision"), ("crop", "steps", "seed", "n")
    kinds: dict[str, Any] = dict.fromkeys(texts, str) | dict.fromkeys(counts, int)
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: kinds.get(name, float)(text) for name, text in row.items()} for row in csv.DictReader(file)]


def tuned(rows: Sequence[Row], weight_decay: float) -> dict[str, float]:
    """The rate of every recipe that has met all `RATES`, of those tried at `weight_decay` and otherwise alike.

    It is that of the highest mean over seeds: under pgd20, or on clean images where these are all that is learned. The
    highest rate tried is there to show where accuracy falls, and is not taken itself. Of several ways to train the
    widest counts.
    """
    from ensemble_bench.registry import RECIPES

    tried: dict[tuple[str, tuple[Any, ...]], dict[float, float]] = {}
    for (recipe, alike, rate, decay), (clean, robust) in means(rows).items():
        if decay == weight_decay:
            tried.setdefault((recipe, alike), {})[rate] = robust if RECIPES[recipe].adversarial else clean
    return {
        recipe: max(sorted(found)[:-1], key=found.__getitem__)
        for (recipe, _), found in sorted(tried.items())
        if found.keys() >= set(RATES)
    }


def means(rows: Sequence[Row]) -> dict[Cell, tuple[float, float]]:
    """Mean over seeds of (clean, pgd20)."""
    cells: dict[Cell, list[Row]] = {}
    for row in rows:
        alike = tuple(row[name] for name in ALIKE)
        cells.setdefault((row["recipe"], alike, row["learning_rate"], row["weight_decay"]), []).append(row)
    return {key: (mean(r["clean"] for r in found), mean(r["pgd20"] for r in found)) for key, found in cells.items()}


def page() -> str:
    """docs/tuning.md: of every table the grid, with the rate taken in bold, and what taking the loss k times gives."""
    from ensemble_bench.registry import RECIPES
    from ensemble_bench.training.presets import PRESETS

    parts = [
        "# How learning rates were chosen\n",
        "Under the loss of the mean probability a member's gradient carries its responsibility r, and all r sum to 1: "
        "at one rate for all, a member of an ensemble learns with a k-th of a single network's gradient. So every "
        "recipe gets its own rate: one grid, one budget, seeds that no result uses, validation images only. Cells are "
        "accuracies in percent of the running average of the weights, clean / under pgd20, means over the seeds. Taken "
        "(bold) is the rate with the highest accuracy under pgd20, or on clean images where a recipe learns from these "
        "alone; the highest rate tried only shows where accuracy falls. `benchmarks/tuning.py` made these tables.\n",
    ]
    for path in sorted(TABLES.glob("*.csv")):
        rows = read(path)
        dataset, preset = path.stem.rsplit("-", 1)
        name = " or ".join(sorted({row["data_name"] for row in rows}))  # a copy of CIFAR-10 goes by its own
        base = PRESETS[preset].on(dataset)
        cells, chosen = means(rows), tuned(rows, base.weight_decay)
        rates = sorted({rate for _, _, rate, decay in cells if decay == base.weight_decay})
        seeds = sorted({int(row["seed"]) for row in rows})
        steps, ns = sorted({int(row["steps"]) for row in rows}), sorted({int(row["n"]) for row in rows})
        widths, crops = sorted({row["width"] for row in rows}), sorted({row["crop"] for row in rows})
        about = [" or ".join(map(str, steps)) + " steps", f"networks of width {' or '.join(f'{w:g}' for w in widths)}"]
        if any(crops):
            about.append(f"crops of {' or '.join(map(str, crops))}")
        about.append(f"seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else f"seed {seeds[0]}")
        about.append(f"n = {' or '.join(map(str, ns))} validation images")
        trained = {kind: {row["recipe"] for row in rows if row["precision"] == kind} for kind in ("float32", "bf16")}
        about += [f"trained in {kind}: {', '.join(sorted(found))}" for kind, found in trained.items() if found]
        parts.append(
            f"## {name}, preset {preset}\n\n{'; '.join(about)}. The last column takes the loss of the mean k times "
            f"at the preset's rate ({base.learning_rate:g}): with SGD, k times that at a k-th of the weight decay.\n"
        )
        lines = [["recipe", *(f"{rate:g}" for rate in rates), TIMES_K], ["---"] * (len(rates) + 2)]
        trained_alike = sorted({(recipe, alike) for recipe, alike, _, _ in cells})
        for recipe, alike in sorted(trained_alike, key=lambda line: list(RECIPES).index(line[0])):
            tries = [cells.get((recipe, alike, rate, base.weight_decay)) for rate in rates]
            found = [_cell(value, bold=rate == chosen.get(recipe)) for value, rate in zip(tries, rates, strict=True)]
            k = RECIPES[recipe].members
            scaled = cells.get((recipe, alike, k * base.learning_rate, base.weight_decay / k)) if k > 1 else None
            several = sum(name == recipe for name, _ in trained_alike) > 1
            told = f" ({', '.join(f'{n} {v}' for n, v in zip(ALIKE, alike, strict=True))})" if several else ""
            lines.append([recipe + told, *found, _cell(scaled)])
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")
        if unfinished := [name for name in dict.fromkeys(tried for tried, *_ in cells) if name not in chosen]:
            parts.append(f"Not finished, and so without a rate of its own yet: {', '.join(unfinished)}.\n")
        if len(chosen) > 1 and (single := chosen.get("singleadv")) is not None:
            gains = [
                f"{recipe} {100 * (cells[recipe, alike, rate, base.weight_decay][1] - one[1]):+.1f}"
                for recipe, alike in trained_alike
                if (rate := chosen.get(recipe, single)) != single
                and (one := cells.get((recipe, alike, single, base.weight_decay)))
                and (recipe, alike, rate, base.weight_decay) in cells
            ]
            told = ", ".join(gains).replace("-", "−") or "nothing: all take it"
            parts.append(f"Points under pgd20 over one rate for all, that of singleadv ({single:g}): {told}.\n")
    return "\n".join(parts)


def _cell(value: tuple[float, float] | None, *, bold: bool = False) -> str:
    text = "" if value is None else f"{100 * value[0]:.1f} / {100 * value[1]:.1f}"
    return f"**{text}**" if bold and text else text


if __name__ == "__main__":
    main()
