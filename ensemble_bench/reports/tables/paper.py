"""The numbers of Grefenstette et al. (2018), and a table that puts ours beside them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ensemble_bench.records.table import Cell, Table, Value
from ensemble_bench.reports.groups import place

# As printed: fractions in Table 1, percent in Table 2. The paper heads the second column of Table 1b "FGSM5".
_HEADS = ("clean", "ifgsm5", "pgd5", "pgd20", "blackbox")
_1A: Mapping[str, tuple[float, ...]] = {
    "baseline": (0.94, 0.34, 0.15, 0.01, 0.27),
    "ensemble2": (0.94, 0.59, 0.44, 0.30, 0.22),
    "ensemble4": (0.91, 0.50, 0.40, 0.34, 0.26),
    "singleadv": (0.82, 0.55, 0.44, 0.43, 0.80),
    "doubleadv": (0.83, 0.57, 0.46, 0.44, 0.82),
    "ensemble2adv": (0.85, 0.62, 0.55, 0.52, 0.83),
    "ensemble4adv": (0.87, 0.66, 0.58, 0.53, 0.85),
}
_1B: Mapping[str, tuple[float, ...]] = {
    "baseline": (0.95, 0.57, 0.29, 0.09, 0.26),
    "ensemble2": (0.95, 0.65, 0.52, 0.38, 0.22),
    "ensemble4": (0.93, 0.60, 0.48, 0.43, 0.24),
    "singleadv": (0.84, 0.57, 0.46, 0.45, 0.81),
    "doubleadv": (0.85, 0.60, 0.48, 0.47, 0.84),
    "ensemble2adv": (0.87, 0.64, 0.56, 0.52, 0.85),
    "ensemble4adv": (0.88, 0.67, 0.58, 0.52, 0.86),
}
_1C: Mapping[str, tuple[float, ...]] = {
    "baseline": (0.16, 0.04),
    "singleadv": (0.46, 0.44),
    "doubleadv": (0.47, 0.47),
    "ensemble2": (0.13, 0.02),
    "ensemble2adv": (0.55, 0.52),
    "separate2adv": (0.49, 0.47),
}
_2: Mapping[str, tuple[float, ...]] = {
    "Model 1": (0.638, 0.344),
    "Model 2": (0.791, 0.439),
    "Model 3": (0.691, 0.387),
    "Model 4": (0.490, 0.237),
    "Ensemble": (0.876, 0.497),
    "Ensemble (remove softmax)": (0.864, 0.487),
}
# The ensemble of the paper's Table 2.
OF_TABLE_2 = "ensemble4adv"


@dataclass(frozen=True, kw_only=True)
class Printed:
    """One of the paper's tables: what it calls itself, the keys of its columns, and its rows by our names."""

    title: str
    keys: tuple[str, ...]
    rows: Mapping[str, tuple[float, ...]]


PAPER: Mapping[str, Printed] = {
    "table1a": Printed(title="Table 1a, average of last 10 evaluation steps", keys=_HEADS, rows=_1A),
    "table1b": Printed(title="Table 1b, model at best IFGSM5 training step", keys=_HEADS, rows=_1B),
    "table1c": Printed(title="Table 1c, after 500 attack steps", keys=("ifgsm500", "pgd500"), rows=_1C),
    "table2": Printed(title="Table 2, strongest adversary", keys=("clean", "adversarial"), rows=_2),
}
HEADINGS = {"blackbox": "black box"}
CAPTION = "In each column first the paper's number (WRN-28-10, 500,000 steps, CIFAR-10, 8/255), then ours here."


def beside_paper(tables: Iterable[Table]) -> list[Table]:
    """For each of `tables` that is one of the paper's, its numbers with ours: those of the first row of a recipe.

    That row is the mean where there are several seeds. Table 2 is of ensemble4adv alone, as the paper's. What is not in
    the paper's table is left out, and so is a table that shares no row with it.
    """
    found = []
    for table in tables:
        printed = PAPER.get(table.name)
        if printed is None or (table.name == "table2" and table.about.get("model") != OF_TABLE_2):
            continue
        rows = tuple(_rows(table, printed))
        if rows:
            found.append(_beside(table, printed, rows))
    # Means come first, and of one group one table is enough.
    return list({(t.title, *t.about.items()): t for t in reversed(found)}.values())[::-1]


def _beside(table: Table, printed: Printed, rows: tuple[tuple[Cell, ...], ...]) -> Table:
    heads = [HEADINGS.get(key, key) for key in printed.keys]
    return Table(
        name="beside_paper",
        title=f"Beside the paper: {printed.title}",
        caption=f"{table.caption} {CAPTION}",
        columns=("model", *(head for name in heads for head in (f"{name}, paper", "ours"))),
        keys=("model", *(key for name in printed.keys for key in (f"{name}_paper", name))),
        rows=rows,
        about={"table": table.name, **{k: v for k, v in table.about.items() if k not in ("model", "seeds")}},
    )


def _rows(table: Table, printed: Printed) -> Iterator[tuple[Cell, ...]]:
    ours: dict[str, Mapping[str, Cell]] = {}
    for row in table.rows:
        if isinstance(row[0], str):
            ours.setdefault(row[0], dict(zip(table.keys, row, strict=True)))
    for name in sorted(printed.rows, key=place):
        if name not in ours:
            continue
        cells: list[Cell] = [name]
        for key, number in zip(printed.keys, printed.rows[name], strict=True):
            cells += [Value(accuracy=number), _plain(ours[name].get(key))]
        yield tuple(cells)


def _plain(cell: Cell) -> Cell:
    """The number with its spread over seeds, without an interval, which the paper's do not have."""
    return Value(accuracy=cell.accuracy, sd=cell.sd) if isinstance(cell, Value) else cell
