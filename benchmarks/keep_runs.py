"""Copies finished runs of an experiment into a tracked folder: headline checkpoints and what describes them.

    python benchmarks/keep_runs.py runs/reproduce-cifar10-jpeg-cpu experiments/cifar10-jpeg-cpu --no-weights ensemble4

Of each finished run: run.json, curves.csv, the averaged weights (float16 under preset cpu), the records of its
evaluations, and the description of the last weights, which says that the run is finished; these themselves would double
the size. Of ensembles that join other runs no weights, as these have them, nor of the recipes that --no-weights names.
What is there already is left alone. `ensemble-bench reproduce --out experiments/…` goes on from there, joins again what
joins runs, and scores no weights that are not there. `make pages` then brings the table of what is missing up to date.
"""

import argparse
import json
import shutil
from pathlib import Path

KEPT = ("run.json", "curves.csv", "averaged.json", "last.json")
WEIGHTS = "averaged.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("kept", type=Path)
    parser.add_argument("--no-weights", nargs="+", default=[], metavar="RECIPE", help="of which no weights are kept")
    options = parser.parse_args()
    for run in sorted(path.parent for path in options.runs.glob("*/last.json")):
        target = options.kept / run.name
        records = [path.parent.relative_to(run) for path in run.glob("evaluations/*/record.json")]
        told = json.loads((run / "run.json").read_text(encoding="utf-8"))
        weights = () if "joins" in told or told["recipe"] in options.no_weights else (WEIGHTS,)
        evaluated = (folder / file for folder in records for file in ("record.json", "samples.parquet"))
        for name in (*KEPT, *weights, *evaluated):
            if (run / name).exists() and not (target / name).exists():  # a joined run has no curves
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(run / name, target / name)
                print(target / name)


if __name__ == "__main__":
    main()
