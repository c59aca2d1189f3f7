"""What the command line prints: records and reports, and lists of names."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ensemble_bench import registry
from ensemble_bench.cli.tables import say, show_files, show_tables, table
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.progress import duration
from ensemble_bench.records import CARRIED, CleanScore, Record, RobustScore, folder_of
from ensemble_bench.registry import plugins

if TYPE_CHECKING:
    from ensemble_bench.records.table import Table as ReportTable
    from ensemble_bench.reports import Report

# Models of which each attack is shown; of more, what all attacks left.
IN_DETAIL = 4
# Heads of the columns of an interval's ends.
ENDS = ("95 % from", "95 % to")


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{100 * fraction:.1f}"


def show_records(records: Sequence[Record]) -> None:
    """Print tables for each suite and threat, the most robust model first, then warnings and paths."""
    records = _told_apart(records)
    for suite, threat in dict.fromkeys((record.suite, record.threat) for record in records):
        same = [record for record in records if (record.suite, record.threat) == (suite, threat)]
        _show_suite(f"suite {suite}, {threat}", sorted(same, key=lambda r: (-r.robust.accuracy, r.model)))
    warned: dict[str, list[str]] = {}
    for record in records:
        for warning in record.warnings:
            warned.setdefault(f"{warning.name}: {warning.message}", []).append(record.model)
    for text, models in warned.items():
        say(f"warning: {', '.join(dict.fromkeys(models))}: {text}", indent="  ")
    for record in records:
        if record.recapture is not None:
            say(f"recapture of {record.model}: {record.recapture}", indent="  ")
    for record in records:
        if (images := record.images) is not None:
            say(
                f"images of {record.model}: {images.broken} broken; asked again, the model gets {images.confirmed} of "
                f"them wrong, and {images.rounded} as images of 8 bits",
                indent="  ",
            )
    show_files([record.path for record in records if record.path is not None], what="records")


def _told_apart(records: Sequence[Record]) -> list[Record]:
    """Name models of one name by where they lie too, such as those of an experiment below the runs."""
    places: dict[str, set[Path | None]] = {}
    for record in records:
        places.setdefault(record.model, set()).add(folder_of(record))
    return [
        replace(record, model=f"{record.model} in {folder.parent}")
        if len(places[record.model]) > 1 and (folder := folder_of(record)) is not None
        else record
        for record in records
    ]


def _show_suite(title: str, records: Sequence[Record]) -> None:
    """What each attack did to each model, and what all of them left."""
    from ensemble_bench.reports.tables.credits import is_cascade

    cascade = is_cascade(records)
    if len(records) == 1 or (cascade and len(records) <= IN_DETAIL):
        told = "Each attack meets what all before it left standing" if cascade else "Each attack meets all its images"
        say(f"{told}; broke: images that all before it had missed. Passes: images through the model.")
        for record in records:
            _show_attacks(f"{record.model}, {title}", record, cascade=cascade)
    attacks = [] if cascade or len(records) == 1 else _attacks(records)
    scores = ("worst case", *ENDS)
    rows = [
        [
            record.model,
            record.n,
            _percent(record.clean.accuracy),
            *_accuracies(record, attacks),
            *interval(record.robust),
        ]
        for record in records
    ]
    about = "accuracy in %, worst case over all attacks, per image"
    table(f"{title}: {about}", ("model", "n", "clean", *attacks, *scores), rows)
    for text in dict.fromkeys(text for record in records for text in _parts(record, attacks)):
        say(text)
    table(f"{title}: passes and time", ("model", "passes", "time"), map(_spent, records))
    if cascade and len(records) > IN_DETAIL:
        say("Each attack by itself: in the records, and in the tables of `ensemble-bench report`.")


def _attacks(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(attack.name for record in records for attack in record.attacks))


def _accuracies(record: Record, attacks: Sequence[str]) -> list[str]:
    found = map(record.attack, attacks)
    return [_percent(None if attack is None else attack.accuracy) for attack in found]


def _parts(record: Record, attacks: Sequence[str]) -> list[str]:
    """Which of `attacks` cover a part of the images."""
    covered = [attack for attack in record.attacks if attack.name in attacks and attack.n != record.n]
    return [f"{attack.name}: on {attack.n:,} of the {record.n:,} images." for attack in covered]


def _show_attacks(title: str, record: Record, *, cascade: bool) -> None:
    """A row an attack: what it left standing, what it broke that all before it had missed, and what it took."""
    met = any(attack.n != record.n for attack in record.attacks)
    columns = ["attack", *(["images"] if met else []), "standing %" if cascade else "accuracy %", "broke"]
    rows = [
        [
            attack.name,
            *([attack.n] if met else []),
            _percent(attack.accuracy),
            attack.credit,
            "–" if attack.passes is None else f"{attack.passes:,}",
            "–" if attack.name == CARRIED else duration(attack.seconds),
        ]
        for attack in record.attacks
    ]
    table(title, [*columns, "passes", "time"], rows)


def _spent(record: Record) -> list[str]:
    """What all attacks on a model took."""
    from ensemble_bench.reports.tables.credits import passes

    spent = passes(record)
    return [record.model, "–" if spent is None else f"{spent:,}", duration(record.seconds)]


def interval(score: CleanScore | RobustScore) -> list[str]:
    """An accuracy and the ends of its 95 % interval, in percent: cells of their own."""
    return [_percent(value) for value in (score.accuracy, score.ci_low, score.ci_high)]


def show_or_write(shown: "ReportTable", out: Path | None) -> None:
    """Print a table with its caption or, given a folder, write it there as Markdown and CSV and print the paths."""
    from ensemble_bench.files import write_atomic
    from ensemble_bench.records.table import to_csv, to_markdown

    if out is None:
        show_tables([shown])
        return
    for suffix, text in ((".md", to_markdown([shown])), (".csv", to_csv([shown]))):
        write_atomic(out / f"{shown.name}{suffix}", text)
        print(out / f"{shown.name}{suffix}")


def show_report(report: "Report") -> None:
    """Print the tables and verdicts, then the paths of all that was written."""
    from ensemble_bench.reports.verdicts import by_family

    show_tables(report.tables)
    for same in by_family(report.verdicts):
        say(f"{same[0].where}:")
        for verdict in same:
            say(f"  {verdict}", indent="    ")
        print()
    for note in report.notes:
        say(note, indent="  ")
    page = next((path.name for path in report.paths if path.suffix == ".md" and path.stem == "report"), "")
    show_files(report.paths, first=page)


def show_names(title: str, kind: str) -> None:
    """Print the names of a kind, with what each stands for."""
    print(f"{title}:")
    shown = {_label(kind, name): name for name in registry.names(kind)}
    width = max(map(len, shown))
    for label, name in shown.items():
        say(f"  {label.ljust(width)}  {_describe(kind, name)}", indent=" " * (width + 4))


def _label(kind: str, name: str) -> str:
    """The name, and an N where an attack takes a number of steps, in brackets where it may."""
    if kind != "attack":
        return name
    if name not in registry.ATTACKS:
        return f"{name}[N]"
    return f"{name}N" if registry.ATTACKS[name].takes_steps else name


def _describe(kind: str, name: str) -> str:
    """What a name stands for, and the package that adds it; what is wrong with it where it cannot be used."""
    try:
        registry.check(kind, name)
        card = registry.KINDS[kind].get(name)
        if isinstance(card, registry.Card) and card.description:
            return card.description
        found = registry.resolve(kind, name)
    except InvalidValueError as error:
        return f"broken: {error}"
    if kind in ("recipe", "preset"):
        about = str(found.description)
    elif kind == "suite":
        about = found.description + (f" ({', '.join(found.attacks)})" if found.attacks else "")
    else:
        about = (found.__doc__ or "").strip().partition("\n")[0].rstrip(".")
    return f"{about} (from {plugins.origin(kind, name)})" if name in plugins.names(kind) else about
