"""Conditions: what two records have to share, beside images and threat, before their numbers are compared."""

from collections.abc import Container, Mapping
from typing import Any

from ensemble_bench.records.decoding import plain
from ensemble_bench.records.record import CARRIED, Record
from ensemble_bench.records.seal import identify

DIRTY = "-dirty"
TREES: Mapping[bool | None, str] = {None: "not recorded", True: "clean", False: "dirty"}
"""What `clean_tree` says, in words."""


def precision_of(record: Record) -> str:
    """Precision that the attacks searched in, empty in records from before it was written down."""
    return "" if record.search is None else record.search.precision


def clean_tree(record: Record) -> bool | None:
    """Whether the source tree of the evaluation held nothing but its commit; None for an installed package."""
    return None if record.commit is None else not record.commit.endswith(DIRTY)


def crossed_commits(record: Record) -> bool:
    """Whether the training went on with other code than it began with, as far as its description says."""
    return bool((record.training or {}).get("crossed_commits"))


def settings_of(record: Record) -> Mapping[str, Any]:
    """Settings of every attack by its name, the black-box set among them: together they are a suite's version.

    That attacks on a model which answers at random take every step is no other version: it is what they do to all such.
    """
    settings = {attack.name: plain(attack.settings) for attack in record.attacks if attack.name != CARRIED}
    if record.randomised is not None:
        for values in settings.values():
            for stage in (values, *values.get("stages", ())):
                stage |= {"stop_early": True} if "stop_early" in stage else {}
    return settings


def version_of(record: Record) -> str:
    """Eight hex digits for a suite's version: equal for records of one suite whose every attack had equal settings."""
    return identify(settings_of(record))[:8]


def conditions_of(record: Record, attacks: Container[str] | None = None) -> dict[str, Any]:
    """Settings of every attack, or of `attacks` alone, in their order; precision, tree, and a training's other code."""
    settings = {name: own for name, own in settings_of(record).items() if attacks is None or name in attacks}
    crossed = {"trained at two commits": True} if crossed_commits(record) else {}
    return {**settings, "search": precision_of(record) or "not recorded", "tree": TREES[clean_tree(record)], **crossed}
