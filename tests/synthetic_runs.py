"""Runs that were never trained: run.json, curves.csv, records and samples as the package writes them, made by numpy."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ensemble_bench.records import (
    AttackResult,
    Blackbox,
    CleanScore,
    NamedWarning,
    Record,
    RobustScore,
    StageResult,
    Surrogate,
    Threat,
    identify,
    samples_to_parquet,
    write_record,
)
from ensemble_bench.records.curves import CURVE_COLUMNS, WITHOUT_ONE_STEP
from ensemble_bench.records.statistics import wilson

# How robust each recipe is, clean and at the end of a long attack; roughly the paper's numbers.
STRENGTH = {
    "baseline": (0.95, 0.02),
    "singleadv": (0.84, 0.45),
    "doubleadv": (0.85, 0.47),
    "ensemble2adv": (0.87, 0.54),
    "separate2adv": (0.86, 0.49),
    "ensemble4adv": (0.88, 0.57),
    "quadadv": (0.86, 0.48),
}
PARAMETERS = {
    "doubleadv": 20_400,
    "ensemble2adv": 20_000,
    "separate2adv": 20_000,
    "ensemble4adv": 40_000,
    "quadadv": 40_100,
}
HASH = "sha256:" + "ab" * 32


def scored(count: int, n: int) -> dict[str, Any]:
    """Fields n, accuracy and interval of `count` of `n` images."""
    low, high = wilson(count, n)
    return {"n": n, "accuracy": count / n, "ci_low": low, "ci_high": high}


def make_record(
    clean: Sequence[bool], attacks: Mapping[str, Sequence[bool | None]], **fields: Any
) -> tuple[Record, pd.DataFrame]:
    """Record and samples of a model that is right on `clean` and, per attack, withstands it (None: not attacked)."""
    alive = np.array(clean, dtype=bool)
    n = len(alive)
    frame: dict[str, Any] = {"id": np.arange(n), "label": np.zeros(n, int), "clean_prediction": np.where(alive, 0, 1)}
    frame["clean"] = alive.copy()
    broken_by = np.array([None if right else "clean" for right in alive], dtype=object)
    results = []
    for name, verdict in attacks.items():
        withstood = np.array([value is None or bool(value) for value in verdict])
        met = np.array([value is not None for value in verdict])
        credit = int((alive & ~withstood).sum())
        broken_by[alive & ~withstood] = name
        alive &= withstood
        robust = int((withstood & met).sum())
        blank = {"n": 0, "accuracy": None, "ci_low": None, "ci_high": None}
        score = scored(robust, int(met.sum())) if met.any() else blank
        results.append(
            AttackResult(name=name, settings={"steps": 5}, robust=robust, credit=credit, seconds=0.5, **score)
        )
        frame[name] = pd.array(list(verdict), dtype="boolean") if not met.all() else withstood
        frame[f"{name}_steps"] = np.arange(n, dtype=np.int32)
        frame[f"{name}_margin"] = np.linspace(-1, 1, n, dtype=np.float32)
    frame["broken_by"] = broken_by
    record = record_of(clean=int(np.sum(clean)), robust=int(alive.sum()), n=n, attacks=tuple(results), **fields)
    return record, pd.DataFrame(frame)


def record_of(*, clean: int, robust: int, n: int, attacks: tuple[AttackResult, ...], **fields: Any) -> Record:
    """A record with these counts; `fields` replace anything else in it."""
    recipe, seeds = fields.get("recipe", "singleadv"), fields.get("seeds", (0,))
    fields.setdefault("cascade", fields.get("suite") in ("strongest", "quick"))
    checkpoint, suite = fields.get("checkpoint", "best"), fields.get("suite", "paper")
    preset, data_name = fields.get("preset", "tiny"), fields.get("data_name", "digits")
    model = fields.pop("model", f"{recipe}-{data_name}-{preset}-s{seeds[0]}/{checkpoint}")
    defaults: dict[str, Any] = {
        "id": identify({"model": model, "suite": suite, "n": n, "preset": preset, "threat": fields.get("threat")}),
        "model": model,
        "weights_hash": HASH,
        "recipe": recipe,
        "preset": preset,
        "seeds": seeds,
        "checkpoint": checkpoint,
        "step": 100,
        "architecture": {"backbone": "small_cnn", "image_shape": (1, 8, 8)},
        "parameters": PARAMETERS.get(recipe, 10_000),
        "flops": 1_000_000,
        "forward_passes": 1,
        "dataset": "digits",
        "data_name": data_name,
        "data_hash": HASH,
        "split": "test",
        "n": n,
        "threat": Threat(norm="linf", eps=8 / 255),
        "suite": suite,
        "seed": 0,
        "clean": CleanScore(correct=clean, **scored(clean, n)),
        "robust": RobustScore(robust=robust, **scored(robust, n)),
        "attacks": attacks,
        "blackbox": None,
        "warnings": (),
        "seconds": 1.25,
        "device": "cpu",
        "versions": {"python": "3.11.2"},
        "commit": None,
    }
    return Record(**(defaults | fields))


def write(record: Record, samples: pd.DataFrame, run: Path) -> Path:
    """Put a record and its samples where an evaluation of `run` puts them; returns the directory."""
    directory = run / "evaluations" / f"{record.suite}-{record.checkpoint}-n{record.n}-{record.id[:8]}"
    write_record(record, directory)
    (directory / "samples.parquet").write_bytes(samples_to_parquet(samples))
    return directory


def write_curves(run: Path, recipe: str, seed: int, accuracy: Mapping[str, Sequence[float]], **about: Any) -> None:
    """Write run.json and curves.csv: `accuracy` holds the columns step, clean, the attacks, maybe fgsm."""
    run.mkdir(parents=True, exist_ok=True)
    document = {
        "recipe": recipe,
        "preset": "tiny",
        "dataset": "digits",
        "data_name": "digits",
        "seeds": [seed],
        "steps": int(accuracy["step"][-1]),
        "threat": {"norm": "linf", "eps": 8 / 255},
        "settings": {"evaluate_n": 144},
        "validation_n": 144,
    }
    (run / "run.json").write_text(json.dumps(document | about))
    frame = pd.DataFrame(accuracy).assign(epoch=1.0, loss=0.5, lr=0.1, seconds=1.0)
    columns = CURVE_COLUMNS if "fgsm" in accuracy else WITHOUT_ONE_STEP
    frame[list(columns)].to_csv(run / "curves.csv", index=False)


def build_runs(
    root: Path,
    recipes: Sequence[str] = tuple(STRENGTH),
    *,
    seeds: Sequence[int] = (0,),
    n: int = 400,
    points: int = 40,
    checkpoints: Sequence[str] = ("best", "last"),
    suites: Sequence[str] = ("paper", "paper500"),
    **fields: Any,
) -> Path:
    """Fill `root` with runs of all `recipes`: curves, and a record a checkpoint and suite (paper500 only for best)."""
    hardness = np.random.default_rng(7).random(n)  # how hard each image is, for all models alike
    for index, recipe in enumerate(recipes):
        for seed in seeds:
            run = root / f"{recipe}-{fields.get('data_name', 'digits')}-{fields.get('preset', 'tiny')}-s{seed}"
            noise = np.random.default_rng([index, seed])
            if not recipe.startswith("separate"):
                _curves(
                    run, recipe, seed, points, noise, **{k: fields[k] for k in ("preset", "data_name") if k in fields}
                )
            shift = noise.normal(0, 0.01)
            for checkpoint in checkpoints:
                for suite in suites if checkpoint == "best" else suites[:1]:
                    own = (hardness + noise.normal(0, 0.03, n)).clip(0, 1)
                    about = {"recipe": recipe, "checkpoint": checkpoint, "suite": suite, **fields}
                    about["seeds"] = (seed, seed + 100) if recipe.startswith("separate") else (seed,)
                    write(*_evaluated(own - shift, recipe, suite, about), run)
    return root


def _evaluated(hardness: Any, recipe: str, suite: str, about: dict[str, Any]) -> tuple[Record, pd.DataFrame]:
    high, low = STRENGTH[recipe]
    steps = {"paper": (5, 7, 5, 20), "paper500": (500, 500), "quick": (500,)}[suite]
    names = {"paper": ("ifgsm5", "ifgsm7", "pgd5", "pgd20"), "paper500": ("ifgsm500", "pgd500"), "quick": ("sweep10",)}[
        suite
    ]
    clean = hardness < high
    attacks: dict[str, Any] = {
        name: list(clean & (hardness < decay(high, low, count))) for name, count in zip(names, steps, strict=True)
    }
    if suite == "paper":
        kept = np.arange(len(hardness)) % 3 == 0
        attacks["blackbox"] = [bool(c) if k else None for c, k in zip(clean, kept, strict=True)]
        surrogates = (Surrogate(backbone="wrn", accuracy=0.96), Surrogate(backbone="vgg16_bn", accuracy=0.945))
        about = {"blackbox": Blackbox(hash=HASH, keep_rate=1 / 3, surrogates=surrogates, n=int(kept.sum())), **about}
    record, samples = make_record(clean, attacks, **about)
    curves = {
        n: tuple(float((clean & (hardness < decay(high, low, t))).mean()) for t in range(c + 1))
        for n, c in zip(names, steps, strict=True)
    }
    results = tuple(AttackResult(**{**vars(a), "curve": curves.get(a.name)}) for a in record.attacks)
    return Record(**{**vars(record), "attacks": results}), samples


STRATEGIES = {  # attacks of the suite appendix, and how much they leave standing beside the first
    "margin-doubled80": 0.0,
    "random-member-doubled80": 0.02,
    "mean-member-doubled80": -0.01,
    "max-member-doubled80": 0.06,
    "clipped-member-doubled80": 0.03,
}


def build_appendix(root: Path, recipe: str, *, members: int = 1, n: int = 200, seed: int = 0, **fields: Any) -> Path:
    """Records of the suite appendix: the best checkpoint of a run and, of an ensemble, each of its parts."""
    run = root / f"{recipe}-digits-tiny-s{seed}"
    hardness = np.random.default_rng(seed).random(n)
    high, low = STRENGTH[recipe]
    views: list[tuple[str | None, float]] = [(None, 0.0)]
    if members > 1:
        views += [(f"member{i + 1}", -0.1 - 0.04 * i) for i in range(members)] + [("logit", -0.01)]
    for view, gain in views:
        model = f"{run.name}/best" + ("" if view is None else f"#{view}")
        tried = STRATEGIES if view is None else dict.fromkeys(list(STRATEGIES)[:1], 0.0)
        left = {name: (high + gain / 2, low + gain + more) for name, more in tried.items()}
        about = {"recipe": recipe, "suite": "appendix", "seeds": (seed,), "model": model, "view": view}
        about["forward_passes"] = members if view in (None, "logit") else 1
        write(*doubled(hardness, left, **(about | fields)), run)
    return root


def doubled(hardness: Any, left: Mapping[str, tuple[float, float]], **about: Any) -> tuple[Record, pd.DataFrame]:
    """A record whose attacks have a stage for 10, 20, 40 and 80 steps and end with the first that broke nothing.

    `left` says, of each attack, the accuracy without and after very many steps.
    """
    clean = hardness < max(high for high, _ in left.values())
    stages: dict[str, tuple[StageResult, ...]] = {}
    attacks: dict[str, Any] = {}
    for name, (high, low) in left.items():
        standing, made = clean.copy(), list[StageResult]()
        for steps in (10, 20, 40, 80):
            broken = standing & (hardness >= decay(high, low, steps))
            counts = {"attacked": int(standing.sum()), "broken": int(broken.sum())}
            made.append(StageResult(name=f"{name}/{steps}", seconds=0.1, passes=steps, **counts))
            standing &= ~broken
            if not broken.any():
                break
        stages[name], attacks[name] = tuple(made), list(standing)
    record, samples = make_record(clean, attacks, **about)
    results = [
        replace(
            attack,
            settings={"stages": [{"name": f"{attack.name}/{steps}"} for steps in (10, 20, 40, 80)]},
            stages=stages[attack.name] if len(stages[attack.name]) > 1 else None,
            passes=sum(stage.passes for stage in stages[attack.name]),
        )
        for attack in record.attacks
    ]
    return replace(record, attacks=tuple(results)), samples


def build_sweep(
    root: Path,
    recipes: Sequence[str],
    *,
    levels: Sequence[int] = (4, 8, 16),
    seeds: Sequence[int] = (0,),
    n: int = 200,
    suite: str = "strongest",
    **fields: Any,
) -> Path:
    """Records of a cascade at several eps (in 255ths): what fell at one is carried over to the next as fallen."""
    for recipe in recipes:
        for seed in seeds:
            run = root / f"{recipe}-digits-tiny-s{seed}"
            noise = np.random.default_rng([len(recipe), seed])
            hardness = noise.random(n)
            clean = hardness < STRENGTH[recipe][0]
            standing, smaller = clean.copy(), dict[str, Any]()
            for level in levels:
                attacks: dict[str, Any] = {"smaller-eps": list(standing)} if smaller else {}
                for name, more in (("pgd20", 0.04), ("apgd100", 0.02), ("mora100", 0.0)):
                    standing &= hardness < STRENGTH[recipe][1] ** (level / 8) + more
                    attacks[name] = list(standing)
                about = {"recipe": recipe, "seeds": (seed,), "suite": suite, **fields}
                record, samples = make_record(clean, attacks, threat=Threat(norm="linf", eps=level / 255), **about)
                results = [
                    replace(a, passes=100, settings={} if a.name != "smaller-eps" else smaller) for a in record.attacks
                ]
                record = replace(record, attacks=tuple(results))
                write(record, samples, run)
                smaller = {"name": "smaller-eps", "eps": level / 255, "record": record.id}
    return root


def decay(high: float, low: float, steps: float) -> float:
    """Accuracy after so many attack steps: falls from `high` to `low`."""
    return low + (high - low) * float(np.exp(-steps / 4)) + 0.02 * (low - high) * (1 - 1 / (1 + steps / 20))


def _curves(run: Path, recipe: str, seed: int, points: int, noise: np.random.Generator, **about: Any) -> None:
    high, low = STRENGTH[recipe]
    step = np.arange(1, points + 1) * 250
    rise = 1 - np.exp(-step / step[-1] * 6)
    columns: dict[str, Any] = {"step": step}
    for name, count in {"clean": 0, "ifgsm5": 5, "ifgsm7": 7, "pgd5": 5, "pgd20": 20}.items():
        columns[name] = (decay(high, low, count) * rise + noise.normal(0, 0.012, points)).clip(0, 1)
    write_curves(run, recipe, seed, columns, **about)


def result_of(record: Record, name: str) -> AttackResult:
    """The attack called `name`, which the record holds."""
    result = record.attack(name)
    assert result is not None
    return result


def path_of(record: Record) -> Path:
    """Where the record was read from."""
    assert record.path is not None
    return record.path


WARNING = NamedWarning(name="blackbox-beats-whitebox", message="the black-box set broke 3 images that pgd20 missed")
