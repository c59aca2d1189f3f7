"""The finding of a check."""

from dataclasses import dataclass

from ensemble_bench.errors import shortened

STATUSES = ("ok", "note", "problem")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was checked.

    `status` is "problem" where something would fail, "note" where it would only be slower or different, else "ok";
    `found` is one line; `mend` says what to do, and is empty where there is nothing to do.
    """

    name: str
    status: str
    found: str
    mend: str = ""


def one_line(error: BaseException) -> str:
    """Kind and message of an error, on one line of at most 300 characters."""
    return shortened(f"{type(error).__name__}: {error}")
