"""Samples: types by column name, equal bytes for equal frames, and the worst case per image."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from synthetic_runs import make_record

from ensemble_bench.errors import RecordError
from ensemble_bench.records import (
    Randomised,
    attack_columns,
    read_samples,
    samples_to_parquet,
    withstood,
    worst_case,
    write_record,
)
from ensemble_bench.records.statistics import wilson_around

DRAWN = Randomised(draws=100, gradient_draws=20)
ATTACKS: dict[str, Sequence[bool | None]] = {"ifgsm5": [True, True, False, True], "blackbox": [None, True, None, False]}


@pytest.fixture
def samples() -> pd.DataFrame:
    """Four images, the last wrong when clean, two of them in the black-box set."""
    return make_record([True, True, True, False], ATTACKS)[1]


def saved(samples: pd.DataFrame, directory: Path) -> Path:
    (directory / "samples.parquet").write_bytes(samples_to_parquet(samples))
    return directory


def test_columns_keep_their_values_and_get_their_types(samples: pd.DataFrame, tmp_path: Path) -> None:
    again = read_samples(saved(samples, tmp_path))
    assert list(again.columns) == list(samples.columns)
    types = {name: str(kind) for name, kind in again.dtypes.items()}
    assert [types[name] for name in ("id", "label", "clean_prediction", "clean")] == ["int64", "int64", "int64", "bool"]
    assert [types[name] for name in ("ifgsm5", "ifgsm5_steps", "ifgsm5_margin")] == ["bool", "int32", "float32"]
    assert types["blackbox"] == "boolean"
    assert again["ifgsm5"].tolist() == ATTACKS["ifgsm5"]
    assert [None if pd.isna(v) else v for v in again["blackbox"]] == ATTACKS["blackbox"]
    assert [None if pd.isna(v) else v for v in again["broken_by"]] == [None, None, "ifgsm5", "clean"]


def test_equal_frames_give_equal_bytes_also_after_reading(samples: pd.DataFrame, tmp_path: Path) -> None:
    data = samples_to_parquet(samples)
    assert data == samples_to_parquet(samples.copy())
    assert data == samples_to_parquet(read_samples(saved(samples, tmp_path)))
    shifted = samples.set_index(pd.Index([5, 6, 7, 8]))
    assert data == samples_to_parquet(shifted)


def test_other_readers_can_read_them(samples: pd.DataFrame, tmp_path: Path) -> None:
    table = pq.read_table(saved(samples, tmp_path) / "samples.parquet")
    assert table.num_rows == 4
    assert table.column("blackbox").to_pylist() == ATTACKS["blackbox"]


def test_steps_may_be_missing_where_an_image_was_not_attacked(samples: pd.DataFrame, tmp_path: Path) -> None:
    samples["blackbox_steps"] = pd.array([None, 1, None, 2], dtype="Int32")
    again = read_samples(saved(samples, tmp_path))
    assert str(again["blackbox_steps"].dtype) == "Int32"
    assert again["blackbox_steps"].dropna().tolist() == [1, 2]


def test_the_worst_case_is_clean_and_withstood_everything_met(samples: pd.DataFrame, tmp_path: Path) -> None:
    again = read_samples(saved(samples, tmp_path))
    assert attack_columns(again) == ["ifgsm5", "blackbox"]
    expected = [True, True, False, False]
    assert worst_case(again).tolist() == worst_case(samples).tolist() == expected
    assert worst_case(samples).dtype == np.bool_


@pytest.mark.parametrize("order", ["as written", "ascending"])
def test_an_expected_accuracy_is_that_of_its_shares_in_whichever_order_they_are_summed(
    order: str, tmp_path: Path
) -> None:
    """A mean of 512 images and 100 draws may lie half-way between two numbers of nine digits, a bit up or down."""
    drawn = [np.random.default_rng(seed).integers(0, 101, 512) / 100 for seed in range(300)]
    halfway = [shares for shares in drawn if abs(shares.mean() * 1e9 % 1 - 0.5) < 1e-3]
    assert len(halfway) > 20
    for shares in halfway[:20]:
        # A sum in another order, as another library or processor has it.
        robust = float(shares.mean() if order == "as written" else np.sort(shares).sum() / 512)
        record, frame = make_record([True] * 512, {"pgd5": [True] * 512}, randomised=DRAWN)
        frame["expected_clean_accuracy"], frame["expected_accuracy"] = 1.0, shares
        low, high = wilson_around(robust, 512)
        score = replace(record.robust, accuracy=robust, ci_low=low, ci_high=high)
        write_record(replace(record, robust=score), tmp_path)
        assert withstood(read_samples(saved(frame, tmp_path))).tolist() == shares.tolist()
    write_record(replace(record, robust=replace(score, accuracy=robust + 1e-6)), tmp_path)
    with pytest.raises(RecordError, match="its images make expected_accuracy"):
        read_samples(tmp_path)


def test_incomplete_or_ill_typed_samples_are_refused(samples: pd.DataFrame) -> None:
    with pytest.raises(RecordError, match="missing column 'label'"):
        samples_to_parquet(samples.drop(columns="label"))
    with pytest.raises(RecordError, match="samples: "):
        samples_to_parquet(samples.assign(label="seven"))


def test_a_missing_or_broken_file_is_refused(samples: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"samples\.parquet: cannot read"):
        read_samples(tmp_path)
    (tmp_path / "samples.parquet").write_bytes(samples_to_parquet(samples)[:-7])
    with pytest.raises(RecordError, match=r"samples\.parquet: not a Parquet file"):
        read_samples(tmp_path)
