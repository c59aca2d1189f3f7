"""The whole report of a folder of runs: Table 1, Figure 2, the verdicts, and a page that holds them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ensemble_bench.errors import RecordError
from ensemble_bench.files import write_atomic
from ensemble_bench.records import Record, find_records
from ensemble_bench.reports.curves import METRICS, Curve, read_curves, replaced
from ensemble_bench.reports.figures import Panel, attack_panels, training_panels, write_figure
from ensemble_bench.reports.table1 import table_1a, table_1b, table_1c
from ensemble_bench.reports.tables import Table, to_csv, to_latex, to_markdown
from ensemble_bench.reports.verdicts import Verdict, missing, verdicts

REPORT_FILE = "report.md"
FIGURES = {
    "figure2a": "Figure 2a: accuracy over training steps, 5 steps of IFGSM",
    "figure2b": "Figure 2b: accuracy over training steps, 20 steps of PGD",
    "figure2c": "Figure 2c: accuracy over the number of attack steps",
}
WANTED = {  # what to say of a part whose inputs are not there
    "table1a": "Table 1a and Figures 2a, 2b are left out: no curves.csv; `ensemble-bench train RECIPE` writes it.",
    "table1b": "Table 1b is left out: no record of a best checkpoint; `ensemble-bench evaluate` makes it.",
    "table1c": "Table 1c is left out: no such record; `ensemble-bench evaluate --suite paper500` makes it.",
    "figure2c": "Figure 2c is left out: no record of a best checkpoint holds the accuracy at each step of pgd.",
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was rendered: tables, verdicts, the files written, and what is missing and why."""

    tables: tuple[Table, ...]
    verdicts: tuple[Verdict, ...]
    paths: tuple[Path, ...]
    notes: tuple[str, ...]


def write_report(root: Path, out: Path, *, as_paper: bool = False) -> Report:
    """Render everything that the records and curves below `root` allow into the folder `out`.

    `as_paper` switches Table 1a and Figures 2a, 2b to the paper's own cleaning and averaging. What has no inputs is
    left out, and its files of an earlier report are removed; `Report.notes` says so. Equal inputs give equal bytes.
    Raises RecordError when there are neither records nor curves, or a broken one.
    """
    root, out = Path(root), Path(out)
    records, curves = find_records(root), read_curves(root)
    if not records and not curves:
        raise RecordError(
            f"{root}: no records or curves; run `ensemble-bench train RECIPE`, then `ensemble-bench evaluate`"
        )
    tables = {
        "table1a": table_1a(curves, records, paper=as_paper),
        "table1b": table_1b(records),
        "table1c": table_1c(records),
    }
    figures = {
        "figure2a": training_panels(curves, "ifgsm5", paper=as_paper),
        "figure2b": training_panels(curves, "pgd20", paper=as_paper),
        "figure2c": attack_panels(records),
    }
    found = verdicts(records)
    present = {name for name, part in (tables | figures).items() if part}
    notes = _notes(records, curves, figures["figure2c"], present=present)
    notes += _cleaning(curves) if as_paper and curves else []
    paths = [*_write_tables(tables, out), *_write_figures(figures, out)]
    page = out / REPORT_FILE
    shown = [name for name, panels in figures.items() if panels]
    write_atomic(page, _page([t for part in tables.values() for t in part], shown, found, notes))
    return Report(
        tables=tuple(table for part in tables.values() for table in part),
        verdicts=tuple(found),
        paths=(page, *paths),
        notes=tuple(notes),
    )


def _write_tables(tables: dict[str, list[Table]], out: Path) -> list[Path]:
    written = []
    for name, part in tables.items():
        for suffix, render in ((".md", to_markdown), (".csv", to_csv), (".tex", to_latex)):
            path = (out / name).with_suffix(suffix)
            if part:
                write_atomic(path, render(part))
                written.append(path)
            else:
                path.unlink(missing_ok=True)
    return written


def _write_figures(figures: dict[str, list[Panel]], out: Path) -> list[Path]:
    written = []
    for name, panels in figures.items():
        if panels:
            written += write_figure(panels, out / name)
        else:
            for suffix in (".png", ".pdf"):
                (out / name).with_suffix(suffix).unlink(missing_ok=True)
    return written


def _notes(
    records: Sequence[Record], curves: Sequence[Curve], panels: Sequence[Panel], *, present: set[str]
) -> list[str]:
    """Say what is missing, unfinished or doubtful."""
    notes = [note for name, note in WANTED.items() if name not in present]
    unfinished = [curve.run for curve in curves if not curve.finished]
    if unfinished:
        notes.append(f"Not trained to the end: {', '.join(unfinished)}.")
    notes += [
        f"Not in Figure 2c ({panel.title}): {', '.join(panel.omitted)}; no {panel.x_label} on as many images."
        for panel in panels
        if panel.omitted
    ]
    notes += missing(records)
    for record in records:
        notes += [f"{record.model}, suite {record.suite}: {w.name}: {w.message}" for w in record.warnings]
    return notes


def _cleaning(curves: Sequence[Curve]) -> list[str]:
    """Say how much the paper's cleaning replaced: in short series it takes a steep start for an outlier."""
    counts = {curve.run: (replaced(curve), len(METRICS) * len(curve.step)) for curve in curves}
    shown = ", ".join(f"{run} {count} of {points}" for run, (count, points) in counts.items() if count)
    return [f"Points that the cleaning took for outliers and replaced by the rolling median: {shown or 'none'}."]


def _page(tables: Sequence[Table], figures: Sequence[str], found: Sequence[Verdict], notes: Sequence[str]) -> str:
    """Return report.md: the tables, the verdicts under what they were measured on, the figures, the notes."""
    parts = ["# Report\n", *(to_markdown([table]) for table in tables)]
    if found:
        parts.append("## Is the ensemble better than its budget spent otherwise?\n")
        for where in dict.fromkeys(verdict.where for verdict in found):
            lines = [f"- {verdict}" for verdict in found if verdict.where == where]
            parts.append("\n".join([f"Worst case per image, exact McNemar test ({where}):", "", *lines, ""]))
    parts += [f"![{FIGURES[name]}]({name}.png)\n\n{FIGURES[name]}\n" for name in figures]
    if notes:
        parts.append("\n".join(["## Notes", "", *(f"- {' '.join(note.split())}" for note in notes), ""]))
    return "\n".join(parts)
