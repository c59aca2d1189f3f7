"""leaderboard.csv: a row a record of a whole model, the most robust first among those that can be compared.

On a published board the records that have a rank come first, and the others say in `unranked` why they have none. Rows
are comparable only where `data_name`, `threat`, `suite`, `split` and `n` agree, so these columns come first and the
file is sorted by them; within such a group by worst-case robust accuracy, then clean accuracy, then model. Accuracies
are fractions in [0, 1], rounded to 4 decimals here and nowhere before. An attack's is over the images that it covers,
in a cascade after all attacks before it. Where one covers a part of the images (the black-box set does), `<attack>_n`
says how many, and the accuracy of an attack that covers none is empty. Where a record of several eps is among them,
`carried_eps` says at which smaller one images fell that count here as fallen under every attack.
"""

from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

from ensemble_bench.errors import RecordError
from ensemble_bench.files import write_atomic
from ensemble_bench.leaderboard.published import board_of
from ensemble_bench.leaderboard.ranking import Standing, standings
from ensemble_bench.records import CARRIED, AttackResult, Record, find_records
from ensemble_bench.records.conditions import TREES, clean_tree, precision_of
from ensemble_bench.records.csv_text import csv_text
from ensemble_bench.records.text import carried_eps, fraction, natural

LEADERBOARD_FILE = "leaderboard.csv"


def write_leaderboard(root: Path, path: Path | None = None) -> Path:
    """Render all records below `root` to `path` (default: leaderboard.csv in `root`) and return it.

    Raises RecordError when there is no record of a whole model, or a broken one.
    """
    root = Path(root)
    records = [record for record in find_records(root) if record.view is None]
    if not records:
        raise RecordError(f"{root}: no records; `ensemble-bench evaluate` makes them")
    path = root / LEADERBOARD_FILE if path is None else Path(path)
    write_atomic(path, leaderboard_csv(records, root=root))
    return path


def leaderboard_csv(records: Iterable[Record], *, root: Path | None = None) -> str:
    """Return the leaderboard of `records`, in any order, as CSV; the paths in it are relative to `root`.

    Parts of models (a member, the logit average) are left out.
    """
    whole = [record for record in records if record.view is None]
    stands = [(record, place) for record, place in zip(whole, standings(whole), strict=True)]
    stands.sort(key=lambda pair: _place(*pair))
    ordered = [record for record, _ in stands]
    published = any(board_of(record) is not None for record in ordered)
    names = {attack.name for record in ordered for attack in record.attacks}
    attacks = sorted(names - {CARRIED}, key=natural)
    partial = {attack.name for record in ordered for attack in record.attacks if attack.n != record.n}
    rows = [
        _row(record, attacks, partial, root, carried=CARRIED in names) | (_standing(place) if published else {})
        for record, place in stands
    ]
    # Without a record there are no columns to name.
    return csv_text([rows[0] if rows else [], *(row.values() for row in rows)])


def _place(record: Record, standing: Standing) -> tuple[object, ...]:
    threat = record.threat.norm, record.threat.eps
    group = (
        record.data_name,
        *threat,
        standing.rank is None,
        standing.rank or 0,
        record.suite,
        record.split,
        -record.n,
    )
    return (*group, -record.robust.accuracy, -record.clean.accuracy, record.model, record.id)


def _row(
    record: Record, attacks: list[str], partial: Collection[str], root: Path | None, *, carried: bool
) -> dict[str, object]:
    results = {attack.name: attack for attack in record.attacks}
    smaller = carried_eps(record)
    carried_text = "" if smaller is None else replace(record.threat, eps=smaller).eps_text
    return {
        "data_name": record.data_name,
        "threat": str(record.threat),
        "suite": record.suite,
        "split": record.split,
        "n": record.n,
        "model": record.model,
        "recipe": record.recipe or "",
        "preset": record.preset or "",
        "checkpoint": record.checkpoint or "",
        "seeds": " ".join(map(str, record.seeds)),
        "dataset": record.dataset,
        "norm": record.threat.norm,
        "eps": record.threat.eps_text,
        **({"carried_eps": carried_text} if carried else {}),
        "robust_accuracy": fraction(record.robust.accuracy),
        "robust_ci_low": fraction(record.robust.ci_low),
        "robust_ci_high": fraction(record.robust.ci_high),
        "clean_accuracy": fraction(record.clean.accuracy),
        "clean_ci_low": fraction(record.clean.ci_low),
        "clean_ci_high": fraction(record.clean.ci_high),
        **{key: value for name in attacks for key, value in _attack(name, results.get(name), partial).items()},
        "parameters": record.parameters,
        "forward_passes": record.forward_passes,
        "flops": "" if record.flops is None else record.flops,
        "attack_seed": record.seed,
        "precision": precision_of(record),
        "tree": TREES[clean_tree(record)],
        "warnings": "; ".join(f"{warning.name} ({warning.message})" for warning in record.warnings),
        "weights_hash": record.weights_hash,
        "record": _relative(record.path, root),
    }


def _standing(standing: Standing) -> dict[str, object]:
    """Where a record stands on its board, and what was found when somebody else evaluated the model."""
    verdict = standing.verdict
    about = "" if verdict is None else ", ".join(filter(None, (verdict.status, verdict.by, verdict.date)))
    rank = "" if standing.rank is None else standing.rank
    return {"rank": rank, "unranked": "; ".join(standing.reasons), "verdict": about}


def _attack(name: str, attack: AttackResult | None, partial: Collection[str]) -> dict[str, object]:
    """The accuracy of an attack and, if it is among the `partial` ones, the number of images that it is of."""
    cells: dict[str, object] = {name: "" if attack is None else fraction(attack.accuracy)}
    return cells | ({f"{name}_n": "" if attack is None else attack.n} if name in partial else {})


def _relative(path: Path | None, root: Path | None) -> str:
    if path is None:
        return ""
    return (path.relative_to(root) if root is not None and path.is_relative_to(root) else path).as_posix()
