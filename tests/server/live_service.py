"""A real service in a process of its own, whose verifier is fast and false."""

import os
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

CALLS = "publications.log"
BOARD = "board.csv"
WORKER = "worker.pid"


def work(settings: Any) -> None:
    """The worker, with what verifies and publishes replaced by what takes milliseconds."""
    from ensemble_bench.files import write_atomic
    from ensemble_bench.server.worker import judge, run

    (settings.data / WORKER).write_text(str(os.getpid()))

    def verify(bundle: Any, *, work: Path, **_: Any) -> SimpleNamespace:
        work.mkdir(parents=True, exist_ok=True)
        (work / "weights").write_bytes(bundle.weights.read_bytes())
        time.sleep(0.03)
        return SimpleNamespace(status="verified", reasons=(), name=work.name)

    def publish(verification: SimpleNamespace, folder: Path, root: Path) -> None:
        assert (folder / "model.safetensors").is_file()
        with open(settings.data / CALLS, "a") as calls:
            calls.write(f"{verification.name}\n")
        board = root / BOARD
        rows = board.read_text().splitlines() if board.exists() else []
        # Like the true one: again changes nothing.
        write_atomic(board, "".join(f"{row}\n" for row in dict.fromkeys([*rows, verification.name])))

    verification = ModuleType("ensemble_bench.submissions.verification")
    publishing = ModuleType("ensemble_bench.submissions.publishing")
    vars(verification).update(verify=verify)
    vars(publishing).update(publish=publish, check_free=lambda *_: None)
    sys.modules |= {module.__name__: module for module in (verification, publishing)}
    run(settings, judge)


def crash(settings: Any) -> None:
    """A worker that dies of every submission."""
    from ensemble_bench.server.worker import run

    run(settings, lambda *_: os._exit(7))


WORKERS = {"fake": work, "crash": crash, "none": None}

if __name__ == "__main__":
    from ensemble_bench.server.service import serve
    from ensemble_bench.server.settings import ServiceSettings

    data, port, worker, attempts = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    settings = ServiceSettings(
        data=data, attempts=attempts, requests_per_minute=10**6, max_pending=10**4, max_daily=10**6
    )
    serve(settings, port=port, worker=WORKERS[worker])
