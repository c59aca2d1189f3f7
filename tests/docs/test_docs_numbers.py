"""Numbers in the prose of pages that rest on kept records are those of the records."""

import json
import re
from pathlib import Path

import pytest

from ensemble_bench.records import Record, find_records
from ensemble_bench.records.table import Value

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "experiments/cifar10-jpeg-cpu"
TRIAL = ROOT / "experiments/cifar10-jpeg-cpu-trials"


def page(name: str) -> str:
    """A page's text on one line."""
    return re.sub(r"\s+", " ", (ROOT / "docs" / name).read_text(encoding="utf-8"))


def told(record: Record) -> str:
    """Such as "30.4 % [27.6, 33.3]"."""
    return str(Value.of(record.robust)).replace(" [", " % [")


def record_of(folder: Path, suite: str) -> Record:
    (found,) = [record for record in find_records(folder) if (record.suite, record.n) == (suite, 1000)]
    return found


@pytest.fixture(scope="module")
def preset_cpu() -> str:
    """docs/preset-cpu.md."""
    return page("preset-cpu.md")


def test_what_the_validation_images_say_of_the_preset(preset_cpu: str) -> None:
    runs = [KEPT / f"singleadv-cifar10-jpeg-cpu-s{seed}" for seed in range(3)]
    pgd = [json.loads((run / "averaged.json").read_text())["meta"]["validation"]["pgd20"] for run in runs]
    first, second, third = (f"{100 * accuracy:.1f}" for accuracy in pgd)
    assert f"seeds 0, 1 and 2 have {first}, {second} and {third} % under pgd20" in preset_cpu


def test_what_the_test_images_say_of_the_preset(preset_cpu: str) -> None:
    run = KEPT / "singleadv-cifar10-jpeg-cpu-s0"
    whole, quick = record_of(run, "autoattack"), record_of(run, "quick")
    passes = [round(sum(attack.passes or 0 for attack in record.attacks) / record.n) for record in (whole, quick)]
    clean = f"{100 * whole.clean.accuracy:.1f} % clean"
    under = f"{told(whole)} under `autoattack` ({passes[0]:,} passes an image)"
    assert f"seed 0 has {clean}, {under} and {told(quick)} under `quick` ({passes[1]})" in preset_cpu


def test_what_longer_training_gave(preset_cpu: str) -> None:
    record = record_of(TRIAL, "quick")
    assert f"the second {100 * record.clean.accuracy:.1f} % and, under `quick`, {told(record)}" in preset_cpu
