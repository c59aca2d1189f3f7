"""Side-by-side timing: the contestants take turns in one process, so that a machine's moods hit all of them alike.

What a benchmark finds it saves as benchmarks/results/NAME.json, of which run.py renders benchmarks/README.md.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ensemble_bench.files import write_atomic
from ensemble_bench.training.hardware import resolve_precision

AUTOATTACK = "AutoAttack"
ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
MODELS = ROOT / "benchmarks/models"
DATA = ROOT.parent / "shared/data/cifar10-jpeg"
CPUINFO = Path("/proc/cpuinfo")
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def add_clock(parser: argparse.ArgumentParser) -> None:
    """Option --clock: the wall's, for an idle machine, or the processor's, which others' work disturbs least."""
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: all threads' time together")


def data_dir_of(options: argparse.Namespace) -> Any:
    """The folder of CIFAR-10: --data-dir, else that in ENSEMBLE_BENCH_DATA, else DATA where it is there, else None."""
    return options.data_dir or os.environ.get("ENSEMBLE_BENCH_DATA") or (DATA if DATA.is_dir() else None)


def side_by_side(
    contestants: Mapping[str, Callable[[], object]], *, rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of every contestant in every round by `clock`, after one uncounted warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, run in contestants.items():
            start = clock()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(clock() - start)
    return seconds


def print_ratios(
    seconds: Mapping[str, list[float]], *, ours: Sequence[str], notes: Mapping[str, str] | None = None
) -> None:
    """A line a contestant: median seconds, and for each of `ours` the median over rounds of the time over its time."""
    print(f"{'':44} {'seconds':>8}" + "".join(f"  over {name.rpartition(' ')[2]:>8}" for name in ours))
    for name, times in seconds.items():
        ratios = "".join(f"  {median_ratio(times, seconds[base]):>12.2f}x" for base in ours)
        print(f"{name:44} {statistics.median(times):8.3f}{ratios}  {(notes or {}).get(name, '')}")


def median_ratio(times: Sequence[float], base: Sequence[float]) -> float:
    """Median over rounds of the time over the base's."""
    return statistics.median(t / b for t, b in zip(times, base, strict=True))


def precisions() -> list[str]:
    """float32, and bf16 where the processor computes in it natively (elsewhere it is emulated, and slow)."""
    return ["float32", *(["bf16"] if resolve_precision("auto", torch.device("cpu")) == "bf16" else [])]


def setting(*packages: str) -> dict[str, Any]:
    """What the figures depend on: processor, threads, versions."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    versions = {package: version(package) for package in ("torch", *packages)}
    return {"processor": device, "threads": torch.get_num_threads(), "versions": versions}


def print_setting(*packages: str) -> None:
    """A line of what the figures depend on."""
    print(in_words(setting(*packages)))


def in_words(found: Mapping[str, Any]) -> str:
    """What `setting` found, as a line."""
    versions = ", ".join(f"{package} {number}" for package, number in found["versions"].items())
    return f"{found['processor']}, {found['threads']} threads, {versions}"


def save(name: str, found: Mapping[str, Any]) -> None:
    """Write what a benchmark found, with its setting, to benchmarks/results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    write_atomic(RESULTS / f"{name}.json", json.dumps(found, indent=1) + "\n")


def _processor() -> str:
    """Name of the processor, with family and model, which names such as "AMD EPYC" leave out."""
    if not CPUINFO.exists():
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in CPUINFO.read_text().splitlines() if ":" in line)
    known = {key.strip(): value.strip() for key, value in fields.items()}
    name = known.get("model name", platform.machine())
    return f"{name} (family {known['cpu family']}, model {known['model']})" if "cpu family" in known else name
