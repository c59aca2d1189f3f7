"""Whether `accelerate launch` or `torchrun` started this process as one of several; no torch here."""

import os

# Both set all of them; WORLD_SIZE alone stands in the environment of other tools too.
VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def count() -> int:
    """Processes that were started together; 1 for a process that was started by itself."""
    return int(os.environ["WORLD_SIZE"]) if all(os.environ.get(name) for name in VARIABLES) else 1


def rank() -> int:
    """Number of this process among those started together, 0 … count − 1. Process 0 writes files and reports."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def local_rank() -> int:
    """Number of this process among those of its machine."""
    return int(os.environ["LOCAL_RANK"]) if count() > 1 else 0
