"""A little of tests/fuzz/run.py: every seed is read, and a fixed few hundred mutants of each raise what they may."""

import runpy
from pathlib import Path
from random import Random

import pytest
from judging import Fault, judge
from mutating import join, mutated, split
from target import Target
from targets import TARGETS


def test_every_target_can_be_named() -> None:
    assert tuple(TARGETS) == runpy.run_path(str(Path(__file__).with_name("run.py")))["NAMES"]


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_mutants_are_read_or_refused(target: Target, tmp_path: Path) -> None:
    seeds = target.seeds()
    assert [judge(target, seed, tmp_path) for seed in seeds] == [True] * len(seeds)
    outcomes = set()
    for number in range(target.quick):
        chance = Random(f"{target.name} {number}")
        parts = mutated(chance.choice(seeds), target.kinds, chance)
        assert split(join(parts), len(parts)) == parts
        outcome = judge(target, parts, tmp_path)
        assert not isinstance(outcome, Fault), f"mutant {number}: {outcome.text}"
        outcomes.add(outcome)
    assert outcomes == ({True, False} if target.errors else {True})
