"""What a long job calls to say how far it is; the command line draws a bar for each label."""

from typing import Protocol


class Progress(Protocol):
    """A callback of long jobs; it draws or logs, and never changes a result."""

    def __call__(self, label: str, done: int, total: int, **fields: float | str) -> None:
        """Report that `done` of `total` units of the job named `label` are finished.

        `label` names one job ("train ensemble2adv", "ensemble2adv-digits-tiny-s0/best pgd20"): one bar a label,
        0 <= done <= total. `fields` are shown beside the bar, such as loss=1.2 or accuracy=0.4.
        """


def duration(seconds: float) -> str:
    """A time in the unit that suits it, for readers: "40 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def silent(label: str, done: int, total: int, **fields: float | str) -> None:
    """Report nothing: the default of every job that takes a `progress`."""
