"""What an accuracy costs: suites quick, autoattack and strongest, and AutoAttack itself, in passes on the same images.

    python benchmarks/quick_suite.py --data-dir DIR     (CIFAR-10; default ../shared/data/cifar10-jpeg, where it is)
    python benchmarks/quick_suite.py --suites quick autoattack --n 200 --checkpoints runs/…

A pass is an image pushed through the model, forward or backward; verdicts count too, the probe for masked gradients
(some 30,000 passes, in autoattack and strongest) does not.
The checkpoints are the published ones, unless others are named. AutoAttack itself (pyautoattack, version "standard")
runs with --reference. All take hours on two cores: --out keeps what is known, and a second call goes on from there.
"""

import argparse
import json
import os
from importlib.metadata import version
from pathlib import Path

from common import print_setting

import ensemble_bench as eb
from ensemble_bench.adapters.autoattack import pyautoattack_standard
from ensemble_bench.files import write_atomic

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "leaderboards/cifar10-jpeg/linf8of255"
DATA = ROOT.parent / "shared/data/cifar10-jpeg"
REFERENCE = f"pyautoattack {version('pyautoattack')}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", nargs="+", type=Path, help="run folders or .safetensors files")
    parser.add_argument("--suites", nargs="+", default=["quick", "autoattack", "strongest"])
    parser.add_argument("--data-dir", help="folder of the data set that the checkpoints were trained on")
    parser.add_argument("--blackbox", type=Path, help="black-box set of suite strongest; by default found or built")
    parser.add_argument("--n", type=int, default=1000, help="number of test images")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--reference", action="store_true", help="run AutoAttack itself too")
    parser.add_argument("--out", type=Path, default=Path("runs/quick_suite"))
    options = parser.parse_args()
    data_dir = options.data_dir or os.environ.get("ENSEMBLE_BENCH_DATA") or (DATA if DATA.is_dir() else None)
    checkpoints = options.checkpoints or sorted(p for p in (PUBLISHED / "weights").iterdir() if "adv" in p.name)
    print_setting("pyautoattack")
    print(f"{options.n} test images, {options.precision}")
    for checkpoint in checkpoints:
        rows = {suite: ours(checkpoint, suite, data_dir, options) for suite in options.suites}
        if options.reference:
            rows[REFERENCE] = theirs(checkpoint, data_dir, options)
        print(f"\n{checkpoint.name}")
        base = next((name for name in (REFERENCE, "autoattack") if name in rows), options.suites[0])
        for name, (robust, passes) in rows.items():
            ratio = f"{rows[base][1] / passes:.1f}x fewer than {base}" if name != base else ""
            print(f"  {name:20} robust accuracy {robust:.4f}  {passes:>11,} passes  {ratio}")


def ours(checkpoint: Path, suite: str, data_dir: object, options: argparse.Namespace) -> tuple[float, int]:
    """Robust accuracy under a suite, and its passes."""
    model = eb.load(checkpoint)
    meta = model.info.meta
    found = eb.evaluate(
        model,
        dataset=meta["dataset"],
        data_dir=data_dir,
        suite=suite,
        n=options.n,
        threat=eb.ThreatModel(**meta["threat"]),
        precision=options.precision,
        blackbox=options.blackbox,
        out=options.out / f"{checkpoint.name}-{suite}-n{options.n}-{options.precision}",
    )
    clean = 2 * found.record.n  # asked twice
    return found.robust_accuracy, clean + sum(a.passes or 0 for a in found.record.attacks)


def theirs(checkpoint: Path, data_dir: object, options: argparse.Namespace) -> tuple[float, int]:
    """Robust accuracy under AutoAttack itself, and its passes."""
    path = options.out / f"{checkpoint.name}-reference-n{options.n}.json"
    if not path.exists():
        model = eb.load(checkpoint)
        meta = model.info.meta
        x, y = eb.data.open_source(meta["dataset"], data_dir).split("test").first(options.n).batch(slice(None))
        _, robust, passes = pyautoattack_standard(model, x, y, eb.ThreatModel(**meta["threat"]), batch_size=250)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps({"robust_accuracy": robust.double().mean().item(), "passes": passes}))
    known = json.loads(path.read_text())
    return known["robust_accuracy"], known["passes"]


if __name__ == "__main__":
    main()
