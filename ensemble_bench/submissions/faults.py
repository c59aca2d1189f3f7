"""Whose fault an error is: the bundle's, which is refused for it, or the machine's, for which none may be."""

import errno
from collections.abc import Iterator

from ensemble_bench.errors import BusyError, DataError, RecordError, is_out_of_memory

# A full disk, also by quota or a limit on files; a disk that fails or may not be written to; no more descriptors.
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
MACHINE = NO_SPACE | {errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}


def is_of_machine(error: BaseException) -> bool:
    """Whether an error of checking or verifying is the machine's or its operator's, and says nothing of the bundle.

    Our own errors may stand for another, the one that they were raised from.
    """
    if isinstance(error, OSError | RecordError | DataError | BusyError):
        return True
    return no_memory(error) or any(isinstance(e, OSError) and e.errno in MACHINE for e in _chain(error))


def no_space(error: BaseException) -> bool:
    """Whether a disk is full."""
    return any(isinstance(e, OSError) and e.errno in NO_SPACE for e in _chain(error)) or "disk is full" in str(error)


def no_memory(error: BaseException) -> bool:
    """Whether memory ran out."""
    return any(is_out_of_memory(e) for e in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__
