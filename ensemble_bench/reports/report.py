"""The whole report of a folder of runs: tables, figures, credits and verdicts, and a page that holds them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ensemble_bench.errors import RecordError, UnknownNameError
from ensemble_bench.files import write_atomic
from ensemble_bench.records import Record, described, find_records
from ensemble_bench.records.markup import markdown
from ensemble_bench.records.table import Table, to_csv, to_latex, to_markdown
from ensemble_bench.reports.doubled import notes_on_doubled
from ensemble_bench.reports.figures.cost import cost_panels
from ensemble_bench.reports.figures.figure2 import attack_panels, training_panels
from ensemble_bench.reports.figures.figure3 import doubling_panels
from ensemble_bench.reports.figures.lines import Panel, write_figure
from ensemble_bench.reports.parts import ALL, CAPTIONS, WHOLE, notes_on_missing_parts
from ensemble_bench.reports.robustness import robustness_panels, robustness_tables
from ensemble_bench.reports.tables.classes import class_tables, confusion_tables, strongest
from ensemble_bench.reports.tables.cost import cost_tables
from ensemble_bench.reports.tables.credits import alone_tables, credit_tables
from ensemble_bench.reports.tables.paper import beside_paper
from ensemble_bench.reports.tables.table1 import suite_tables, table_1a, table_1b, table_1c
from ensemble_bench.reports.tables.table2 import table_2
from ensemble_bench.reports.tables.verdicts import verdict_summaries, verdict_tables
from ensemble_bench.reports.training_curves import METRICS, Curve, count_outliers, read_curves
from ensemble_bench.reports.verdicts import Verdict, by_family, notes_on_missing_verdicts, verdicts

REPORT_FILE = "report.md"
VERDICTS_BELOW = "Worst case per image, 95 % intervals over seeds and images"
PANELS_BESIDE = {"figure3": 2}
TRAINING = frozenset({"table1a", "figure2a", "figure2b"})  # made from curves, not from records


@dataclass(frozen=True, kw_only=True)
class Report:
    """A rendered report: its tables, verdicts and files, and notes on what is missing or doubtful."""

    tables: tuple[Table, ...]
    verdicts: tuple[Verdict, ...]
    paths: tuple[Path, ...]
    notes: tuple[str, ...]


def write_report(root: Path, out: Path, *, as_paper: bool = False, parts: Collection[str] | None = None) -> Report:
    """Render everything that the records and curves below `root` allow into the folder `out`.

    `as_paper` switches Table 1a and Figures 2a, 2b to the paper's own cleaning and averaging. `parts` (see `parts_of`)
    renders these alone, without verdicts and the page. What has no inputs is left out, and its files of an earlier
    report are removed; `Report.notes` says so. Equal inputs give equal bytes. Raises RecordError when there are neither
    records nor curves, none for any of `parts`, or a broken one; UnknownNameError for an unknown part.
    """
    root, out = Path(root), Path(out)
    for name in parts or ():
        if name not in ALL:
            raise UnknownNameError("part of a report", name, ALL)
    chosen = WHOLE if parts is None else frozenset(parts)
    records, curves = [described(record) for record in find_records(root)], read_curves(root)
    if not records and not curves:
        raise RecordError(
            f"{root}: no records or curves; run `ensemble-bench train RECIPE`, then `ensemble-bench evaluate`"
        )
    tables = {name: make() for name, make in _tables(records, curves, as_paper).items() if name in chosen}
    figures = {name: make() for name, make in _figures(records, curves, as_paper).items() if name in chosen}
    data = {"robustness_curve": robustness_tables(records)} if "robustness_curve" in chosen else {}
    present = {name for name, part in (*tables.items(), *figures.items()) if part}
    if parts is not None and not present:
        raise RecordError(f"{root}: {notes_on_missing_parts(present, chosen)[0]}")
    whole = parts is None
    compared = verdicts(records) if whole else []
    notes = notes_on_missing_parts(present, chosen) + _notes(records, curves, figures, whole=whole)
    notes += _cleaning(curves) if as_paper and curves and chosen & TRAINING else []
    data |= {"verdicts": verdict_tables(compared)} if whole else {}
    paths = [*_write_tables(tables, out), *_write_figures(figures, out), *_write_data(data, out)]
    rendered = tuple(table for part in tables.values() for table in part)
    if whole:
        paths.insert(0, out / REPORT_FILE)
        write_atomic(paths[0], _page(rendered, figures, compared, notes))
    return Report(tables=rendered, verdicts=tuple(compared), paths=tuple(paths), notes=tuple(notes))


def _tables(records: Sequence[Record], curves: Sequence[Curve], paper: bool) -> dict[str, Callable[[], list[Table]]]:
    return {
        "table1a": partial(table_1a, curves, records, paper=paper),
        "table1b": partial(table_1b, records),
        "table1c": partial(table_1c, records),
        "table2": partial(table_2, records),
        "cost_table": partial(cost_tables, records),
        "suites": partial(suite_tables, records),
        "credits": partial(credit_tables, records),
        "alone": partial(alone_tables, records),
        "classes": lambda: class_tables(strongest(records)),
        "confusion": lambda: confusion_tables(strongest(records)),
        "beside_paper": partial(_beside_paper, records, curves, paper),
    }


def _beside_paper(records: Sequence[Record], curves: Sequence[Curve], paper: bool) -> list[Table]:
    """The paper's tables with our numbers in them."""
    ours = (table_1a(curves, records, paper=paper), table_1b(records), table_1c(records), table_2(records))
    return beside_paper(table for tables in ours for table in tables)


def _figures(records: Sequence[Record], curves: Sequence[Curve], paper: bool) -> dict[str, Callable[[], list[Panel]]]:
    return {
        "figure2a": partial(training_panels, curves, "ifgsm5", paper=paper),
        "figure2b": partial(training_panels, curves, "pgd20", paper=paper),
        "figure2c": partial(attack_panels, records),
        "figure3": partial(doubling_panels, records),
        "cost_figure": partial(cost_panels, records),
        "robustness_curve": partial(robustness_panels, records),
    }


def _write_tables(tables: Mapping[str, list[Table]], out: Path) -> list[Path]:
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


def _write_figures(figures: Mapping[str, list[Panel]], out: Path) -> list[Path]:
    written = []
    for name, panels in figures.items():
        if panels:
            written += write_figure(panels, out / name, columns=PANELS_BESIDE.get(name, 1))
        else:
            for suffix in (".png", ".pdf"):
                (out / name).with_suffix(suffix).unlink(missing_ok=True)
    return written


def _write_data(data: Mapping[str, list[Table]], out: Path) -> list[Path]:
    """Write the numbers of figures that no table shows."""
    written = []
    for name, tables in data.items():
        path = (out / name).with_suffix(".csv")
        if tables:
            write_atomic(path, to_csv(tables))
            written.append(path)
        else:
            path.unlink(missing_ok=True)
    return written


def _notes(
    records: Sequence[Record], curves: Sequence[Curve], figures: Mapping[str, list[Panel]], *, whole: bool
) -> list[str]:
    """Say what is unfinished or doubtful, and of a whole report which verdicts are missing."""
    notes = []
    unfinished = [curve.run for curve in curves if not curve.finished]
    if unfinished:
        notes.append(f"Not trained to the end: {', '.join(unfinished)}.")
    notes += [
        f"{curve.run} overfitted catastrophically from step {curve.overfitted} on: under one step of an attack its "
        f"accuracy rose or held, under many it fell."
        for curve in curves
        if curve.overfitted is not None
    ]
    notes += [
        f"Not in Figure 2c ({panel.setting}): {', '.join(panel.omitted)}; no {panel.x_label} on as many images."
        for panel in figures.get("figure2c", ())
        if panel.omitted
    ]
    notes += notes_on_missing_verdicts(records) if whole else []
    notes += notes_on_doubled(records, curves)
    warned: dict[str, dict[str, None]] = {}
    for record in records:
        for warning in record.warnings:
            warned.setdefault(f"{warning.name}: {warning.message}", {})[f"{record.model}, suite {record.suite}"] = None
    return notes + [f"{'; '.join(where)}: {text}" for text, where in warned.items()]


def _cleaning(curves: Sequence[Curve]) -> list[str]:
    """Say how much the paper's cleaning replaced: in short series it takes a steep start for an outlier."""
    counts = {curve.run: (count_outliers(curve), len(METRICS) * len(curve.step)) for curve in curves}
    counted = ", ".join(f"{run} {count} of {points}" for run, (count, points) in counts.items() if count)
    return [f"Points that the cleaning took for outliers and replaced by the rolling median: {counted or 'none'}."]


def _page(
    tables: Sequence[Table],
    figures: Mapping[str, Sequence[Panel]],
    compared: Sequence[Verdict],
    notes: Sequence[str],
) -> str:
    """Return report.md: the tables, the verdicts under what they were measured on, the figures, the notes."""
    parts = ["# Report\n", *(to_markdown([table]) for table in tables)]
    if compared:
        parts += ["## Verdicts on the claims\n", to_markdown(verdict_summaries(compared)), *verdict_lists(compared)]
    for name, panels in figures.items():
        if panels:
            settings = "; ".join(dict.fromkeys(panel.setting for panel in panels))
            seen = "; ".join(panel.title for panel in panels)
            parts.append(
                f"![{CAPTIONS[name]}. {markdown(seen)}]({name}.png)\n\n{CAPTIONS[name]} ({markdown(settings)})\n"
            )
    if notes:
        parts.append("\n".join(["## Notes", "", *(f"- {' '.join(note.split())}" for note in notes), ""]))
    return "\n".join(parts)


def verdict_lists(compared: Sequence[Verdict]) -> list[str]:
    """Verdicts as Markdown lists, one a family, each under what it was measured on."""
    return [
        "\n".join([f"{VERDICTS_BELOW} ({same[0].where}):", "", *(f"- {verdict}" for verdict in same), ""])
        for same in by_family(compared)
    ]
