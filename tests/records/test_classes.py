"""Results by class, on images counted by hand."""

import numpy as np
import pandas as pd
import pytest

from ensemble_bench.records.classes import ClassScore, Confusion, class_scores, confusion


@pytest.fixture
def samples() -> pd.DataFrame:
    """Six images of classes 0 and 2: one is wrong clean (taken for 1), two fall, to 2 and to 5."""
    return pd.DataFrame(
        {
            "id": range(6),
            "label": [0, 0, 0, 2, 2, 2],
            "clean_prediction": [0, 0, 1, 2, 2, 2],
            "clean": [True, True, False, True, True, True],
            "pgd20": [True, False, False, True, False, True],
            "broken_by": [None, "pgd20", None, None, "pgd20", None],
            "adversarial_prediction": pd.array([None, 2, None, None, 5, None], dtype="Int64"),
        }
    )


def test_scores_of_each_class(samples: pd.DataFrame) -> None:
    assert class_scores(samples) == [
        ClassScore(label=0, n=3, correct=2, robust=1),
        ClassScore(label=2, n=3, correct=3, robust=2),
    ]


def test_confusion_clean_and_attacked(samples: pd.DataFrame) -> None:
    clean = confusion(samples, attacked=False)
    assert clean == Confusion(labels=(0, 1, 2), counts=((2, 1, 0), (0, 0, 0), (0, 0, 3)), unknown=(0, 0, 0))
    attacked = confusion(samples, attacked=True)
    assert attacked.labels == (0, 1, 2, 5)
    assert attacked.counts == ((1, 1, 1, 0), (0, 0, 0, 0), (0, 0, 2, 1), (0, 0, 0, 0))
    assert attacked.unknown == (0, 0, 0, 0)


def test_a_thousand_classes_are_counted_as_numpy_counts_them() -> None:
    labels, taken = np.random.default_rng(0).integers(0, 1000, (2, 5000))
    about = {"id": range(5000), "label": labels, "clean_prediction": taken, "clean": labels == taken, "broken_by": None}
    expected = np.zeros((1000, 1000), int)
    np.add.at(expected, (labels, taken), 1)
    found = confusion(pd.DataFrame(about), attacked=False)
    known = np.array(found.labels)
    assert (np.array(found.counts) == expected[np.ix_(known, known)]).all()
    assert expected.sum() == np.sum(found.counts) == 5000


def test_samples_from_before_do_not_say_what_broken_images_are_taken_for(samples: pd.DataFrame) -> None:
    old = confusion(samples.drop(columns="adversarial_prediction"), attacked=True)
    assert old == Confusion(labels=(0, 1, 2), counts=((1, 1, 0), (0, 0, 0), (0, 0, 2)), unknown=(1, 0, 1))
