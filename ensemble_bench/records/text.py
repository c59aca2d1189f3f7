"""Values of records as text, the same in every rendering: seeds, accuracies, the order of names."""

import re
from collections.abc import Sequence

from ensemble_bench.errors import RecordError
from ensemble_bench.records.record import CARRIED, Record

DIGITS = "0123456789"
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def carried_eps(record: Record) -> float | None:
    """Return the smaller eps whose fallen images `record` counts as fallen without attacking them, None without one.

    Raises RecordError when the record does not say which.
    """
    carried = record.attack(CARRIED)
    if carried is None:
        return None
    eps = carried.settings.get("eps")
    if not isinstance(eps, float) or not 0 < eps < record.threat.eps:
        raise RecordError(
            f"{record.path or record.model}: attacks.{CARRIED}.settings.eps: expected a number above 0 and below "
            f"{record.threat.eps}, got {eps!r}"
        )
    return eps


def natural(name: str) -> list[tuple[bool, int, str]]:
    """Sort key that reads digits as numbers, so that pgd20 comes before pgd500."""
    parts = [part for part in re.split(r"([0-9]+)", name) if part]
    return [(part[0] in DIGITS, _number(part) if part[0] in DIGITS else 0, part) for part in parts]


def _number(digits: str) -> int:
    # int() takes no more than 4,300 digits; such names may be anybody's.
    return int(digits) if len(digits) <= 1000 else 10**1000


def fraction(value: float | None) -> str:
    """Return an accuracy with 4 decimals, or an empty text for None."""
    return "" if value is None else f"{value:.4f}"


def quantity(value: float, *, plain: bool = False) -> str:
    """A count with three digits and its prefix: "156 k", "48.2 M", "1.20 G"; `plain` drops zeros: "1.2 G"."""
    for prefix in ("", " k", " M", " G", " T", " P"):
        if value < 999.5 or prefix == " P":
            break
        value /= 1000
    digits = 0 if value >= 99.95 or not prefix else 1 if value >= 9.995 else 2
    return f"{value:.3g}{prefix}" if plain else f"{value:.{digits}f}{prefix}"


def seeds_text(seeds: Sequence[int]) -> str:
    """Return a model's seeds: "0", or "0+1" where members of several seeds were joined."""
    return "+".join(map(str, seeds))


def day_text(date: str) -> str:
    """Return the day of a date in ISO 8601 as people write it, "21 November 2026"; any other text as it is."""
    found = re.match(r"(\d{4})-(\d\d)-(\d\d)(?!\d)", date, re.ASCII)
    if found is None or not 1 <= int(found[2]) <= len(MONTHS):
        return date
    return f"{int(found[3])} {MONTHS[int(found[2]) - 1]} {found[1]}"
