"""What a number costs: suites quick and strongest beside AutoAttack itself, in robust accuracy, passes and seconds.

    python benchmarks/suite_cost.py --data-dir DIR     (CIFAR-10; default ../shared/data/cifar10-jpeg, where it is)
    python benchmarks/suite_cost.py --suites quick autoattack --n 200 --checkpoints runs/…

All meet the same test images. "quick (float32)" searches in float32, where the others search in bf16 if it is native. A
pass is an image pushed through the model, forward or backward; verdicts count too, but what strongest does beside its
attacks, the probe for masked gradients and the recapture, counts in the seconds alone. AutoAttack itself is
pyautoattack's version "standard", in float32. The checkpoints, unless others are named, are those in benchmarks/models,
on which the suites were finished, and networks of preset cpu on which nobody tuned anything. All of it
takes hours on two cores: every figure is kept in --out as it comes, and a second call goes on from there.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import AUTOATTACK, CLOCKS, MODELS, add_clock, data_dir_of, save, setting

import ensemble_bench as eb
from ensemble_bench.adapters.autoattack import pyautoattack_standard
from ensemble_bench.files import write_atomic

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENT = ROOT / "experiments/cifar10-jpeg-cpu"
UNTUNED = ("singleadv-cifar10-jpeg-cpu-s1", "singleadv-cifar10-jpeg-cpu-s2", "ensemble2adv-cifar10-jpeg-cpu-s0")
FLOAT32 = "quick (float32)"
Figures = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", nargs="+", type=Path, help="run folders or .safetensors files")
    parser.add_argument("--suites", nargs="+", default=["quick", FLOAT32, "strongest"])
    parser.add_argument("--data-dir", help="folder of the data set that the checkpoints were trained on")
    parser.add_argument("--blackbox", type=Path, help="black-box set of suite strongest; by default found or built")
    parser.add_argument("--n", type=int, default=1000, help="number of test images")
    parser.add_argument("--out", type=Path, default=Path("runs/suite_cost"), help="folder of the figures so far")
    parser.add_argument("--save", action="store_true", help="write the figures to benchmarks/results")
    add_clock(parser)
    options = parser.parse_args()
    data_dir = data_dir_of(options)
    found = setting("pyautoattack") | {"clock": options.clock}
    parts = []
    for path in options.checkpoints or [*sorted(MODELS.glob("*adv-*")), *(EXPERIMENT / name for name in UNTUNED)]:
        figures: dict[str, Figures] = {}
        for name in (*options.suites, AUTOATTACK):
            figures[name] = known(path, name, data_dir, options, found)
            print(f"{path.name:36} {name:12} {figures[name]}", flush=True)
        part: dict[str, Any] = {"title": f"{path.name}, {options.n} test images", "ours": options.suites}
        part["seconds"] = {name: [figure["seconds"]] for name, figure in figures.items()}
        parts.append(part | {key: {n: f[key] for n, f in figures.items()} for key in ("robust", "passes")})
        if options.save:
            save("suite_cost", {**found, "parts": parts})


def known(path: Path, name: str, data_dir: Any, options: argparse.Namespace, found: Figures) -> Figures:
    """The figures of a contestant on a model: those in --out if they were made in this setting, else made now."""
    file = options.out / f"{path.name}-{name}-n{options.n}.json"
    if file.exists() and (kept := json.loads(file.read_text()))["setting"] == found:
        return dict(kept["figures"])
    model = eb.load(path)
    clock = CLOCKS[options.clock]
    start = clock()
    robust, passes = (theirs if name == AUTOATTACK else ours)(model, name, data_dir, options)
    figures = {"robust": robust, "passes": passes, "seconds": clock() - start}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, json.dumps({"setting": found, "figures": figures}))
    return figures


def ours(model: Any, suite: str, data_dir: Any, options: argparse.Namespace) -> tuple[float, int]:
    """Robust accuracy under a suite, and its passes."""
    meta = model.info.meta
    suite, _, precision = suite.removesuffix(")").partition(" (")
    with tempfile.TemporaryDirectory() as folder:  # a journal would shorten a second run
        found = eb.evaluate(
            model,
            dataset=meta["dataset"],
            data_dir=data_dir,
            suite=suite,
            n=options.n,
            threat=eb.ThreatModel(**meta["threat"]),
            precision=precision or "auto",
            blackbox=options.blackbox,
            out=folder,
        )
    record = found.record
    clean = 2 * record.n  # asked twice
    return found.robust_accuracy, clean + sum(attack.passes or 0 for attack in record.attacks)


def theirs(model: Any, _: str, data_dir: Any, options: argparse.Namespace) -> tuple[float, int]:
    """Robust accuracy under AutoAttack itself, and its passes."""
    meta = model.info.meta
    x, y = eb.data.open_source(meta["dataset"], data_dir).split("test").first(options.n).batch(slice(None))
    _, robust, passes = pyautoattack_standard(model, x, y, eb.ThreatModel(**meta["threat"]), batch_size=250)
    return robust.to(torch.float64).mean().item(), passes


if __name__ == "__main__":
    main()
