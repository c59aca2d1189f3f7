"""What each attack breaks alone, what that costs, and the order in which a cascade should run them.

    python benchmarks/plan_cascade.py FOLDER…     folders with a record.json and samples.parquet

docs/suites.md shows the plan of the evaluation in KEPT. The evaluations must be no cascades:
`evaluate(model, suite="sweep10+pma100+apgd-t100", split="validation", out=FOLDER)` runs every attack on every image, so
that what an order would have broken can be read off. The plan is greedy, as in AutoAE (Liu et al., AAAI 2023): next
comes the attack that breaks the most images for its passes, of those that still stand. Passes on a part of the images
are those of the record, shared out by the steps that each image took. The last column says how far down the survivors,
nearest first by the margins so far, the newly broken lay: what a triage may leave out. Plan on validation images, and
on models that no result uses.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ensemble_bench.errors import RecordError
from ensemble_bench.records import Record, read_record, read_samples

Array = NDArray[np.float64]
TRIALS = Path(__file__).resolve().parents[1] / "experiments/cifar10-jpeg-cpu-trials"
KEPT = TRIALS / "singleadv-cifar10-jpeg-cpu-epochs-16-crop-2-s1000" / "plan"


@dataclass(frozen=True, kw_only=True)
class Alone:
    """An attack by itself, over the images (of all models) that were classified correctly: in each, one entry an image.

    `passes` is what it spent on the image, and `margin` the largest it reached there.
    """

    name: str
    broken: NDArray[np.bool_]
    passes: Array
    margin: Array


@dataclass(frozen=True, kw_only=True)
class Next:
    """A step of the plan: the attack meets `standing` images, breaks `broken` and spends `passes` on them.

    `deepest` is the share of the survivors, nearest first, among which all that it broke lay; None where it broke none.
    """

    name: str
    standing: int
    broken: int
    passes: float
    deepest: float | None


def alone_of(folders: Sequence[Path]) -> list[Alone]:
    """The attacks that all evaluations in `folders` ran; raises RecordError for a cascade, or for none in common."""
    parts: dict[str, list[Alone]] = {}
    for folder in folders:
        record, samples = read_record(folder / "record.json"), read_samples(folder)
        if record.cascade:
            raise RecordError(
                f"{folder}: a cascade, whose attacks did not all meet every image: evaluate a sum of attacks"
            )
        right = samples["clean"].to_numpy(dtype=bool)
        for attack in record.attacks:
            steps = samples[f"{attack.name}_steps"].to_numpy(dtype=float)[right] + 1
            part = Alone(
                name=attack.name,
                broken=~samples[attack.name].fillna(True).to_numpy(dtype=bool)[right],
                passes=(attack.passes or 0) * steps / steps.sum(),
                margin=samples[f"{attack.name}_margin"].to_numpy(dtype=float)[right],
            )
            parts.setdefault(attack.name, []).append(part)
    shared = [same for same in parts.values() if len(same) == len(folders)]
    if not shared:
        raise RecordError(f"{', '.join(map(str, folders))}: no attack that all of them ran")
    return [
        Alone(
            name=same[0].name,
            broken=np.concatenate([part.broken for part in same]),
            passes=np.concatenate([part.passes for part in same]),
            margin=np.concatenate([part.margin for part in same]),
        )
        for same in shared
    ]


def plan(attacks: Sequence[Alone]) -> Iterator[Next]:
    """Attacks in greedy order: the most newly broken images a pass first, those that break none last and cheapest."""
    left = list(attacks)
    standing = np.ones(len(left[0].broken), dtype=bool)
    margin = np.full(len(standing), -np.inf)
    while left:

        def worth(attack: Alone, standing: NDArray[np.bool_] = standing) -> tuple[float, float]:
            spent = attack.passes[standing].sum()
            return -(attack.broken & standing).sum() / max(spent, 1), spent

        best = min(left, key=worth)
        left.remove(best)
        new = best.broken & standing
        # 0 for the nearest survivor.
        place = np.argsort(np.argsort(-margin[standing], kind="stable"), kind="stable")
        deepest = (place[new[standing]].max() + 1) / standing.sum() if new.any() and np.isfinite(margin).any() else None
        yield Next(
            name=best.name,
            standing=int(standing.sum()),
            broken=int(new.sum()),
            passes=float(best.passes[standing].sum()),
            deepest=deepest,
        )
        standing = standing & ~best.broken
        margin = np.fmax(margin, best.margin)


def kept() -> str:
    """The tables of docs/suites.md."""
    record = read_record(KEPT / "record.json")
    told = "\n".join(table(alone_of([KEPT]), [record]))
    return (
        f"{record.run}, the first {record.n} {record.split} images of {record.data_name}, {record.threat}:\n\n{told}\n"
    )


def table(attacks: Sequence[Alone], records: Sequence[Record]) -> Iterator[str]:
    """The tables, line by line."""
    images = sum(record.n for record in records)
    union = np.stack([attack.broken for attack in attacks])
    about = f"of which {union.shape[1]} are classified correctly and {union.any(axis=0).sum()} fall"
    yield f"{images} images{f' of {len(records)} models' if len(records) > 1 else ''}, {about}."
    yield ""
    yield "| attack | breaks alone | … and no other does | passes an image | broken per 1,000 passes |"
    yield "| :-- | --: | --: | --: | --: |"
    for row, attack in enumerate(attacks):
        others = np.delete(union, row, axis=0).any(axis=0)
        spent, broken = attack.passes.sum(), int(attack.broken.sum())
        only = int((attack.broken & ~others).sum())
        yield f"| `{attack.name}` | {broken} | {only} | {spent / images:.1f} | {1000 * broken / spent:.2f} |"
    yield ""
    yield "| next in greedy order | meets | newly broken | passes an image | … of the nearest |"
    yield "| :-- | --: | --: | --: | --: |"
    steps = list(plan(attacks))
    for step in steps:
        if step.broken:
            near = "" if step.deepest is None else f"{100 * step.deepest:.0f} %"
            yield f"| `{step.name}` | {step.standing} | {step.broken} | {step.passes / images:.1f} | {near} |"
    if idle := [step.passes / images for step in steps if not step.broken]:
        yield f"| any other | {steps[-1].standing} | 0 | {min(idle):.1f} to {max(idle):.1f} | |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="evaluations of the same attacks, none of them a cascade")
    folders = parser.parse_args().folders
    print("\n".join(table(alone_of(folders), [read_record(folder / "record.json") for folder in folders])))


if __name__ == "__main__":
    main()
