"""All targets by name."""

import functools
from collections.abc import Mapping
from dataclasses import replace

import of_boards
import of_records
import of_runs
import of_weights
from target import Target

TARGETS: Mapping[str, Target] = {
    target.name: replace(target, seeds=functools.cache(target.seeds))
    for module in (of_boards, of_records, of_weights, of_runs)
    for target in module.TARGETS
}
