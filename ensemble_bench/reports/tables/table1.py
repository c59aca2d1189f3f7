"""Tables 1a, 1b and 1c of Grefenstette et al. (2018), for the runs and records that there are, and those of suites."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from ensemble_bench.records import CARRIED, Record, folder_of
from ensemble_bench.records.table import Cell, Table, Value
from ensemble_bench.records.text import carried_eps, natural
from ensemble_bench.registry import SUITES
from ensemble_bench.reports.alike import rows_of
from ensemble_bench.reports.groups import (
    Group,
    Scored,
    all_seeds,
    group_columns,
    group_of,
    grouped,
    last_beside,
    scored_models,
)
from ensemble_bench.reports.tables.rows import Cells, conditions, mean_of, table_rows
from ensemble_bench.reports.training_curves import LAST, METRICS, POINTS, WINDOW, Curve, as_paper, last_mean

ATTACKS_B = ("ifgsm5", "ifgsm7", "pgd5", "pgd20", "blackbox")
ATTACKS_C = ("ifgsm500", "pgd500")
HEADINGS = {"blackbox": "black box", "worst_case": "worst case [95 %]"}
OWN = ("paper", "paper500", "appendix")  # suites whose tables are the paper's
WEIGHTS = {
    "averaged": "the running average of the weights",
    "best": "the weights with the highest ifgsm5 on validation images",
    "last": "the weights after the last step",
}

Row = tuple[Cell, ...]
Part = tuple[str, int, str]  # an attack on a part of the images: its name, their number, and the set that they are of


def table_1a(curves: Iterable[Curve], records: Iterable[Record], *, paper: bool = False) -> list[Table]:
    """Mean of the last 10 evaluation points of training: a table a group and number of images, a row a run.

    The black-box column comes from the record of a run's `last` checkpoint, where there is one. With `paper` the series
    go through the paper's own procedure (section 4.3), which makes one row of all seeds of a recipe.
    """
    curves = list(curves)
    end = {curve.run: curve.step[-1] for curve in curves if curve.finished}
    # `evaluate` scores one of two checkpoints of equal weights: one of the last step stands for `last`.
    last = [
        r
        for r in records
        if (r.checkpoint == "last" or (r.checkpoint == "best" and r.step is not None and r.step == end.get(r.run)))
        and r.suite == "paper"
        and r.view is None
        and carried_eps(r) is None
    ]
    tables = []
    for (group, n), runs in grouped(curves, lambda curve: (curve.group, curve.n or 0)).items():
        known, met = _blackbox([record for record in last if group_of(record) == group], runs)
        keys = (*METRICS, "blackbox") if known else METRICS
        rows = _paper_rows(runs, keys, known) if paper else table_rows(runs, keys, _cells_of_curve(known))
        title = f"Table 1a: mean of the last {LAST} evaluation points"
        caption = " ".join(_caption_1a(group, runs, n or None, blackbox=met, paper=paper))
        about = group_columns(group) | {"split": "validation", "n": str(n or "")}
        if met is not None:
            about["blackbox_n"] = str(met)
        tables.append(_table("table1a", title, caption, keys, rows, about))
    return tables


def table_1b(records: Iterable[Record]) -> list[Table]:
    """Accuracies of each run's headline checkpoint under the suite `paper`; last weights beside averaged ones."""
    records = list(records)
    chosen = scored_models(records, "paper") + last_beside(records, "paper")
    return _tables_of_records(chosen, "table1b", "Table 1b", ATTACKS_B)


def table_1c(records: Iterable[Record]) -> list[Table]:
    """The same after 500 attack steps, the suite `paper500`."""
    records = list(records)
    chosen = scored_models(records, "paper500") + last_beside(records, "paper500")
    return _tables_of_records(chosen, "table1c", "Table 1c: after 500 attack steps", ATTACKS_C)


def suite_tables(records: Iterable[Record]) -> list[Table]:
    """Accuracies of each run's headline checkpoint under every other suite: each attack, if it met all, and the worst.

    In a cascade an attack meets what those before it left; how much it broke stands in the credits.
    """
    records = list(records)
    tables = []
    known = list(SUITES)
    suites = {record.suite for record in records} - set(OWN)
    for suite in sorted(suites, key=lambda s: (known.index(s) if s in known else len(known), natural(s))):
        chosen = scored_models(records, suite)
        apart = [attack.name for scored in chosen if not scored.record.cascade for attack in scored.record.attacks]
        attacks = tuple(name for name in dict.fromkeys(apart) if name != CARRIED)
        tables += _tables_of_records(chosen, "suites", f"Suite {suite}", attacks, suite=suite)
    return tables


def _points(shown: Sequence[Scored]) -> str:
    """Say at which points of training the headline weights of Table 1b were taken."""
    kinds = {scored.record.checkpoint for scored in shown if not scored.beside} - {None}
    texts = ["at the end of training"] if kinds - {"best"} else []
    return " or ".join([*texts, "at the best ifgsm5 point"] if "best" in kinds or not texts else texts)


def _tables_of_records(
    chosen: Iterable[Scored],
    name: str,
    title: str,
    attacks: tuple[str, ...],
    **about: str,
) -> list[Table]:
    """Build a table for every group of records whose columns are of the same images."""
    keys = ("clean", *attacks, "worst_case")
    tables = []
    found = grouped(chosen, lambda s: _key(s, attacks))
    for (group, split, n, carried, parts), runs in found.items():
        several = sum(key[:-1] == (group, split, n, carried) for key in found) > 1
        sentences = [conditions(group, runs, split, n, carried or None)]
        sentences.append("Accuracies in percent; worst case: over all attacks, per image.")
        sentences += [_part(part, named=several) for part in parts]
        sentences += _weights(runs)
        rows = table_rows(runs, keys, lambda scored: _cells_of_record(scored.record, attacks))
        told = group_columns(group, carried or None) | about | {"split": split, "n": str(n)}
        told |= {f"{attack}_n": str(met) for attack, met, _ in parts}
        tables.append(
            _table(
                name, f"{title}: {_points(runs)}" if name == "table1b" else title, " ".join(sentences), keys, rows, told
            )
        )
    return tables


def _key(scored: Scored, attacks: Sequence[str]) -> tuple[Group, str, int, float, tuple[Part, ...]]:
    """What the records of one table share, the images of every column included."""
    record = scored.record
    found = [attack for attack in record.attacks if attack.name in attacks and attack.n != record.n]
    parts = tuple((attack.name, attack.n, str(attack.settings.get("hash", ""))) for attack in found)
    return group_of(record), record.split, record.n, carried_eps(record) or 0.0, parts


def _part(part: Part, *, named: bool) -> str:
    """Say on how many images an attack was, and of which set where there is a table for another."""
    name, n, content = part
    if name != "blackbox":
        return f"{name}: on {n:,} of these images."
    if n == 0:
        return "Black box: none of these images fooled all surrogates."
    chosen = f" (set {content.removeprefix('sha256:')[:8]})" if named and content else ""
    return f"Black box: on the {n:,} of these images that fooled all surrogates{chosen}."


def _weights(runs: Sequence[Scored]) -> list[str]:
    """Say whose weights stand in the rows, unless all are the best, as in the paper."""
    labels: dict[str, list[str]] = {}
    for row in rows_of(scored for scored in runs if not scored.beside):
        labels.setdefault(row.runs[0].record.checkpoint or "", []).append(row.label)
    kinds = [kind for kind in WEIGHTS if kind in labels]
    if kinds in ([], ["best"]):
        return []
    texts = [WEIGHTS[kind] + (f" ({', '.join(labels[kind])})" if len(kinds) > 1 else "") for kind in kinds]
    return [f"Weights: {'; '.join(texts)}."]


def _table(
    name: str, title: str, caption: str, keys: Sequence[str], rows: Iterable[Row], about: Mapping[str, str]
) -> Table:
    return Table(
        name=name,
        title=title,
        caption=caption,
        columns=("model", "seeds", *(HEADINGS.get(key, key) for key in keys)),
        keys=("model", "seeds", *keys),
        rows=tuple(rows),
        about=about,
    )


def _paper_rows(runs: Iterable[Curve], keys: Sequence[str], blackbox: Cells) -> list[Row]:
    """A row a recipe: the last points of the cleaned series' mean over seeds."""
    rows: list[Row] = []
    for row in rows_of(runs):
        merged = as_paper(row.runs)
        cells: dict[str, Cell] = {metric: Value(accuracy=last_mean(merged, metric)) for metric in METRICS}
        known = mean_of([blackbox.get(run.run) for run in row.runs])
        cells["blackbox"] = Value(accuracy=known.accuracy) if isinstance(known, Value) else None
        rows.append((row.label, all_seeds(row.runs), *(cells[key] for key in keys)))
    return rows


def _cells_of_curve(blackbox: Cells) -> Callable[[Curve], Cells]:
    def cells(curve: Curve) -> Cells:
        points = {metric: Value(accuracy=last_mean(curve, metric)) for metric in METRICS}
        return points | {"blackbox": blackbox.get(curve.run)}

    return cells


def _cells_of_record(record: Record, attacks: Sequence[str]) -> Cells:
    results = {attack.name: attack.accuracy for attack in record.attacks}
    known = {name: results.get(name) for name in attacks}
    return {
        "clean": Value(accuracy=record.clean.accuracy),
        **{name: None if accuracy is None else Value(accuracy=accuracy) for name, accuracy in known.items()},
        "worst_case": Value.of(record.robust),
    }


def _blackbox(records: Iterable[Record], runs: Sequence[Curve]) -> tuple[dict[str, Value], int | None]:
    """Return black-box accuracies by run, all on the same images, and how many these are.

    Of several sets of images that serves which covers most runs, then the largest.
    """
    of_images: dict[Part, dict[str, Value]] = {}
    for record in sorted(records, key=lambda record: record.id):
        attack, run = record.attack("blackbox"), _run_of(record, runs)
        if attack is not None and attack.accuracy is not None and run is not None:
            images = record.data_hash + record.split, attack.n, str(attack.settings.get("hash", ""))
            of_images.setdefault(images, {}).setdefault(run, Value(accuracy=attack.accuracy))
    if not of_images:
        return {}, None
    chosen = max(of_images, key=lambda images: (len(of_images[images]), images[1], images))
    return of_images[chosen], chosen[1]


def _run_of(record: Record, runs: Sequence[Curve]) -> str | None:
    """Return the run that a record's model comes from: the one in whose folder it lies."""
    folder = folder_of(record)
    home: Path | None = None if folder is None else folder.resolve()
    return next((run.run for run in runs if run.folder == home), None)


def _caption_1a(
    group: Group, runs: Sequence[Curve], n: int | None, *, blackbox: int | None, paper: bool
) -> Iterable[str]:
    """Sentences that say what the numbers of Table 1a are."""
    yield conditions(group, runs, "validation", n, spread=not paper)
    yield "Accuracies in percent."
    if paper:
        yield (
            f"As in the paper: outliers (3 standard deviations from a rolling median of {WINDOW}) replaced, "
            f"interpolated to {POINTS} time-steps, averaged over seeds, mean of the last {LAST} of these."
        )
    elif short := [run for run in runs if len(run.step) < LAST]:
        counts: dict[int, list[str]] = {}
        for run in short:
            counts.setdefault(len(run.step), []).append(run.run.rpartition("/")[2])
        every = len(counts) == 1 and len(short) == len(runs)
        texts = (f"{'all runs' if every else ', '.join(names)} have {n}" for n, names in counts.items())
        yield f"Fewer points: {'; '.join(texts)}."
    if blackbox is not None:
        yield f"Black box: the last checkpoint on {blackbox} images that fooled all surrogates, not a mean over points."
