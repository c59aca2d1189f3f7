"""Boards: the entries by data set and threat, a table each, where models that differ by their seed share a line."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from ensemble_bench.leaderboard.site.entries import OURS, Entry, attack_names, mean_of, one_a_seed
from ensemble_bench.records.table import Value
from ensemble_bench.records.text import seeds_text


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a table: a model, or several that differ by their seed alone, with the mean of these.

    `id` is its name in the page.
    """

    id: str
    name: str
    entries: tuple[Entry, ...]
    robust: Value
    clean: Value

    @property
    def first(self) -> Entry:
        """The entry that stands for all in what they share."""
        return self.entries[0]

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks of its models, ascending."""
        return tuple(sorted(entry.rank for entry in self.entries if entry.rank is not None))

    @property
    def seeds(self) -> str:
        """The seeds of its models, each once: "0, 1, 2"."""
        return ", ".join(dict.fromkeys(seeds_text(entry.seeds) for entry in self.entries if entry.seeds))

    @property
    def warnings(self) -> int:
        """How many warnings its models have, all together."""
        return sum(len(entry.warnings) for entry in self.entries)

    @property
    def verified(self) -> str:
        """The verdict on its models, empty where they have different ones."""
        statuses = {entry.verified for entry in self.entries}
        return statuses.pop() if len(statuses) == 1 else ""

    @property
    def of(self) -> str:
        """What its accuracies are the mean of, empty for one model."""
        return f"mean of {self.first.seed_count} seeds ± sd" if len(self.entries) > 1 else ""


@dataclass(frozen=True, kw_only=True)
class Board:
    """A data set and a threat: the lines of its table, by rank, then the most robust first.

    `reasons` say why no model has a rank, where the same ones hold for all.
    """

    id: str
    title: str
    data_name: str
    threat: str
    lines: tuple[Line, ...]
    attacks: tuple[str, ...]
    reasons: tuple[str, ...]


def boards_of(entries: Sequence[Entry]) -> list[Board]:
    """Collect entries, which are in the order of `ranked`, into boards: ranked ones first, others' last."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.board, []).append(entry)
    ordered = sorted(
        found.values(),
        key=lambda own: (all(e.rank is None for e in own), all(e.source != OURS for e in own)),
    )
    return [_board(f"board{place}", own) for place, own in enumerate(ordered, start=1)]


def _board(name: str, entries: Sequence[Entry]) -> Board:
    together: dict[str, list[Entry]] = {}
    for place, entry in enumerate(entries):
        together.setdefault(entry.alike or str(place), []).append(entry)
    # The order of the means need not be that of the best seeds.
    ordered = sorted(map(_numbers, together.values()), key=_place)
    reasons = {entry.reasons for entry in entries}
    return Board(
        id=name,
        title=entries[0].board,
        data_name=entries[0].data_name,
        threat=str(entries[0].threat),
        lines=tuple(
            Line(id=f"{name}-{place}", name=_name(own), entries=tuple(own), robust=robust, clean=clean)
            for place, (own, robust, clean) in enumerate(ordered)
        ),
        attacks=tuple(attack_names(entries)),
        reasons=reasons.pop() if len(reasons) == 1 and len(entries) > 1 else (),
    )


def _numbers(entries: list[Entry]) -> tuple[list[Entry], Value, Value]:
    """Entries by seed, with their robust and clean accuracy: the mean where there are several."""
    if len(entries) == 1:
        return entries, entries[0].robust, entries[0].clean
    own, counted = sorted(entries, key=lambda entry: (entry.seeds, entry.name)), one_a_seed(entries)
    return own, mean_of([entry.robust for entry in counted]), mean_of([entry.clean for entry in counted])


def _place(line: tuple[list[Entry], Value, Value]) -> tuple[object, ...]:
    entries, robust, clean = line
    ranks = [entry.rank for entry in entries if entry.rank is not None]
    return not ranks, min(ranks, default=0), -robust.accuracy, -clean.accuracy, entries[0].name, entries[0].source


def _name(entries: Sequence[Entry]) -> str:
    """The name of one model, or what the names of several have in common."""
    if len(entries) == 1:
        return entries[0].name
    shared = _leading([entry.name.split("-") for entry in entries])
    return "-".join(shared) or entries[0].recipe or entries[0].name


def _leading(names: Sequence[Sequence[str]]) -> list[str]:
    """The words that all `names`, word by word, begin with."""
    columns = itertools.takewhile(lambda words: len(set(words)) == 1, zip(*names, strict=False))
    return [words[0] for words in columns]
