"""A lock is one process's, until that ends."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("filelock", reason="the extra [server] is not installed")

from ensemble_bench.errors import InvalidValueError
from ensemble_bench.server.lock import hold

HOLD = """
import sys, time, pathlib
from ensemble_bench.server.lock import hold
with hold(pathlib.Path(sys.argv[1]), wait=0):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_is_anothers_until_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            start = time.monotonic()
            with pytest.raises(InvalidValueError, match="another service runs there"), hold(path, wait=0.3):
                pytest.fail("it is held twice")
            assert 0.3 <= time.monotonic() - start < 10
        finally:
            process.kill()
    with hold(path, wait=10):
        pass
    with hold(path, wait=0):  # it was given back
        pass


def test_what_cannot_be_a_lock_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="cannot be locked"), hold(tmp_path, wait=0):
        pytest.fail("a folder is no lock")
