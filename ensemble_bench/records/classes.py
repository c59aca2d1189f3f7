"""Results by class: accuracies, and what images of each class are taken for, clean and under attack."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ensemble_bench.records.samples import ADVERSARIAL_PREDICTION, right_clean, withstood, worst_case

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """Of the `n` images of a class, how many are classified correctly and how many withstand every attack too.

    Of a model that answers at random the numbers are expected ones.
    """

    label: int
    n: int
    correct: float
    robust: float


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """How many images of each class (a row of `counts`) are taken for each (a column), by `labels`.

    `unknown` counts, by row, broken images of which the samples do not say what they are taken for.
    """

    labels: tuple[int, ...]
    counts: tuple[tuple[int, ...], ...]
    unknown: tuple[int, ...]


def class_scores(samples: "pd.DataFrame") -> list[ClassScore]:
    """Scores of every class that `samples` hold images of, in the order of the labels."""
    right, standing = right_clean(samples), withstood(samples)
    found = []
    for label in sorted(set(samples["label"].tolist())):
        rows = (samples["label"] == label).to_numpy()
        correct, robust = (float(of[rows].sum()) for of in (right, standing))
        found.append(ClassScore(label=label, n=int(rows.sum()), correct=correct, robust=robust))
    return found


def confusion(samples: "pd.DataFrame", *, attacked: bool) -> Confusion:
    """What images are taken for: clean ones, or, if `attacked`, each at the image that broke it, else as it is."""
    labels = samples["label"].tolist()
    taken: list[int | None] = list(samples["clean_prediction"].tolist())
    if attacked:
        column = ADVERSARIAL_PREDICTION
        told = samples[column].tolist() if column in samples else [None] * len(labels)
        broken = samples["clean"].to_numpy(dtype=bool) & ~worst_case(samples)
        for row in broken.nonzero()[0]:
            # Missing values compare with nothing, themselves included.
            taken[row] = told[row] if isinstance(told[row], int) else None
    names = sorted({*labels, *(label for label in taken if label is not None)})
    pairs = Counter(zip(labels, taken, strict=True))
    counts = tuple(tuple(pairs[true, other] for other in names) for true in names)
    return Confusion(labels=tuple(names), counts=counts, unknown=tuple(pairs[true, None] for true in names))
