"""Disturbs a command in every way, and compares what it ends with."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

from small_factorial import ARGUMENTS as SMALL_REPRODUCE  # noqa: E402
from small_factorial import digests  # noqa: E402

PACKAGE = (sys.executable, "-W", "ignore", "-m", "ensemble_bench")
SMALL = (sys.executable, "-W", "ignore", str(TESTS / "small_factorial.py"))
TRAIN = (*PACKAGE, "train", "ensemble2adv", "--max-steps", "30", "--out", "run", "--threads", "1", "--resume")
EVALUATE = (*PACKAGE, "evaluate", "run", "--suite", "quick", "--n", "24", "--threads", "1")


@dataclass(frozen=True)
class Scene:
    """A command, and what has to run before it in an empty folder."""

    name: str
    command: Sequence[str]
    before: Sequence[Sequence[str]] = ()


SCENES = (
    Scene("train", TRAIN),
    Scene("evaluate", EVALUATE, (TRAIN,)),
    Scene("blackbox", (*PACKAGE, "blackbox", "build", "--n", "40", "--out", "set.safetensors")),
    Scene("reproduce", (*SMALL, *SMALL_REPRODUCE, "--out", "out", "--workers", "1")),
    Scene(
        "submit",
        (*PACKAGE, "submit", "model.zip", "--to", "boards", "--work", "kept"),
        (TRAIN, EVALUATE, (*PACKAGE, "bundle", "run", "--out", "model.zip")),
    ),
    Scene("leaderboard", (*PACKAGE, "leaderboard", "build", "--root", ".", "--out", "site"), (TRAIN, EVALUATE)),
)


@dataclass
class Found:
    """What a scene did and what was wrong with it."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def disturb(scene: Scene, root: Path, chance: random.Random, *, kills: int, disks: int, flips: int) -> Found:
    """Disturb a scene so many times below `root`."""
    found, base = Found(), root / "base"
    fine = (0, 1) if scene.name == "reproduce" else (0,)  # 1: some jobs failed, and it says why
    base.mkdir()
    for command in scene.before:
        _must(command, base)
    start = time.monotonic()
    whole = shutil.copytree(base, root / "whole")
    _must(scene.command, whole)
    seconds, reference = time.monotonic() - start, digests(whole)

    def compare(what: str, folder: Path) -> None:
        now = digests(folder)
        other = sorted(name for name in now.keys() | reference.keys() if now.get(name) != reference.get(name))
        if other:
            found.faults.append(f"{what}: {len(other)} files differ, {', '.join(other[:4])}")
        if left := sorted(str(path.relative_to(folder)) for path in folder.rglob(".*") if path.name != ".lock"):
            found.faults.append(f"{what}: left behind {', '.join(left[:4])}")

    while found.counts["kills"] < kills:
        folder = shutil.copytree(base, root / f"killed{found.counts['kills']}")
        for _ in range(chance.randint(1, 4)):
            if found.counts["kills"] < kills and _killed(scene.command, folder, chance.uniform(0.2, seconds)):
                found.counts["kills"] += 1
        _finish(found, "killed", scene.command, folder, compare)
    for _ in range(disks):
        folder, size = shutil.copytree(base, root / f"disk{found.counts['disks']}"), int(10 ** chance.uniform(0, 5.5))
        found.counts["disks"] += 1
        done = _run(scene.command, folder, limit=size)
        if problem := _problem(done, fine=fine):
            found.faults.append(f"files of at most {size} bytes: {problem}")
        _finish(found, f"full at {size} bytes", scene.command, folder, compare)
    folder = shutil.copytree(base, root / "pair")
    pair = [_started(scene.command, folder) for _ in range(2)]
    ended = [_ended(process) for process in pair]
    found.counts["pairs"] += 1
    if all(done.returncode for done in ended):
        found.faults.append("of two at once neither finished")
    found.faults += [f"two at once: {problem}" for done in ended if (problem := _problem(done, fine=(0,)))]
    _finish(found, "two at once", scene.command, folder, compare)
    for name, path in _flipped(whole, root, chance, flips):
        found.counts["flips"] += 1
        done = _run(scene.command, path)
        if problem := _problem(done, fine=fine):
            found.faults.append(f"a bit of {name}: {problem}")
        elif done.returncode == 0:
            # The damaged file itself may be read by nobody here; what follows from it must not change in silence.
            (path / name).unlink(missing_ok=True)
            now = digests(path)
            if other := [n for n in reference if n != name and now.get(n) != reference[n]]:
                found.faults.append(f"a bit of {name}: changed {', '.join(other[:3])} in silence")
        elif Path(name).stem not in done.stdout + done.stderr:
            found.faults.append(f"a bit of {name}: nothing names it: {_last(done)}")
        shutil.rmtree(path)
    return found


def _finish(
    found: Found, what: str, command: Sequence[str], folder: Path, compare: Callable[[str, Path], None]
) -> None:
    done = _run(command, folder)
    if done.returncode:
        found.faults.append(f"{what}, then called again: exit {done.returncode}, {_last(done)}")
    else:
        compare(what, folder)
    shutil.rmtree(folder)


def _flipped(whole: Path, root: Path, chance: random.Random, flips: int) -> Iterator[tuple[str, Path]]:
    """Copies of the finished folder with one bit flipped in a file."""
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file() and path.stat().st_size)
    for number in range(flips):
        file = chance.choice(files)
        copy = shutil.copytree(whole, root / f"flip{number}")
        data = bytearray((copy / file).read_bytes())
        bit = chance.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
        (copy / file).write_bytes(data)
        yield str(file), copy


def _started(command: Sequence[str], folder: Path, limit: int | None = None) -> "subprocess.Popen[str]":
    def full() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen(
        command,
        cwd=folder,
        start_new_session=True,
        preexec_fn=full,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS.parent)},
    )


def _ended(process: "subprocess.Popen[str]") -> "subprocess.CompletedProcess[str]":
    out, error = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, error)


def _run(command: Sequence[str], folder: Path, limit: int | None = None) -> "subprocess.CompletedProcess[str]":
    return _ended(_started(command, folder, limit))


def _must(command: Sequence[str], folder: Path) -> None:
    done = _run(command, folder)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[3:])}: exit {done.returncode} undisturbed: {_last(done)}")


def _killed(command: Sequence[str], folder: Path, after: float) -> bool:
    """Whether the command was still at work when it was killed."""
    process = _started(command, folder)
    try:
        process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True
    return False


def _problem(done: "subprocess.CompletedProcess[str]", *, fine: Sequence[int]) -> str | None:
    """What is wrong with how a command ended: with success, or with exit status 2 and a line of its own."""
    if "Traceback" in done.stderr:
        return f"a traceback, {_last(done)}"
    if done.returncode in fine:
        return None
    if done.returncode != 2:
        return f"exit {done.returncode}, {_last(done)}"
    return None if "ensemble-bench: " in done.stderr else f"no line of its own, {_last(done)}"


def _last(done: "subprocess.CompletedProcess[str]") -> str:
    return (done.stderr.strip().splitlines() or ["nothing said"])[-1][:200]
