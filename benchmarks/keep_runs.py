"""Copies finished runs of an experiment into a tracked folder: headline checkpoints and what describes them.

    python benchmarks/keep_runs.py runs/reproduce-cifar10-jpeg-cpu experiments/cifar10-jpeg-cpu

Of each finished run: run.json, curves.csv, the averaged weights (float16 under preset cpu) and the description of the
last ones, which says that the run is finished; their weights would double the size. A run that is there already is left
alone. `ensemble-bench reproduce --out experiments/…` goes on from such a folder.
"""

import argparse
import shutil
from pathlib import Path

KEPT = ("run.json", "curves.csv", "averaged.safetensors", "averaged.json", "last.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("kept", type=Path)
    options = parser.parse_args()
    for run in sorted(path.parent for path in options.runs.glob("*/last.json")):
        target = options.kept / run.name
        if target.exists():
            continue
        target.mkdir(parents=True)
        for name in KEPT:
            if (run / name).exists():  # a joined run has no curves
                shutil.copy2(run / name, target / name)
        print(f"{target}: {sum(file.stat().st_size for file in target.iterdir()) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
