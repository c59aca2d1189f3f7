"""A job that is killed while it tells its progress."""

from collections.abc import Callable


class Killed(BaseException):
    """Like KeyboardInterrupt: no failure of the attack under way."""


def killing(after: int) -> Callable[..., None]:
    """A progress callback that dies at its call number `after`."""
    calls = 0

    def progress(label: str, done: int, total: int, **fields: float | str) -> None:
        nonlocal calls
        calls += 1
        if calls == after:
            raise Killed

    return progress
