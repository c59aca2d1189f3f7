"""The trials of the libraries in an interpreter of their own, which a broken library may end."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence

from ensemble_bench.doctor.finding import Finding
from ensemble_bench.doctor.trials import TRIALS

# Seconds: imports from a cold network disk can take minutes.
PATIENCE = 300
# The child finds what this interpreter finds, whatever folder it is started in.
CODE = "import sys; sys.path[:] = {path!r}; from ensemble_bench.doctor.trials import main; main(sys.argv[1:])"


def isolated_trials() -> Iterator[Finding]:
    """Findings of all trials in turn; after one that ended the interpreter, the next are made in another."""
    left = list(TRIALS)
    while left:
        findings = _run(left)
        yield from findings
        del left[: len(findings)]
        if left and findings[0].name == "torch" and findings[0].status == "problem":
            yield Finding(name=", ".join(left), status="note", found="not tried, as they need torch")
            return


def _run(names: Sequence[str]) -> list[Finding]:
    """Findings of the first trials of `names`, at least one: the last may be of one that ended the interpreter."""
    command = [sys.executable, "-c", CODE.format(path=sys.path), *names]
    try:
        ran = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)
        output, end = ran.stdout, _end(ran.returncode, ran.stderr)
    except subprocess.TimeoutExpired as late:
        output, end = late.stdout or b"", f"no answer within {PATIENCE} seconds"
    findings = [Finding(**json.loads(line)) for line in output.splitlines()]
    if end or not findings:
        at = names[len(findings)]
        findings.append(Finding(name=at, status="problem", found=end or "it ended Python", mend=TRIALS[at].mend))
    return findings


def _end(status: int, errors: bytes) -> str:
    """How an interpreter ended before its last trial; empty if it did not."""
    if status == 0:
        return ""
    last = errors.decode(errors="replace").strip().splitlines()[-1:]
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    return ": ".join([f"it ended Python with {how}", *last])
