"""Runs the benchmarks against peers, one after the other; `make bench` then renders the pages of what they found.

    make bench                                      (half an hour on two idle cores)
    make bench ARGS="training_step --clock processor"
    make bench ARGS=suite_cost                      (hours)

What follows the names of benchmarks is handed to each. A benchmark that fails stops the run; what others found stays.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from speed import BENCHMARKS, OWN, SPEED

HERE = Path(__file__).resolve().parent


def main(arguments: Sequence[str]) -> None:
    names = [name for name in arguments if name in BENCHMARKS]
    others = [argument for argument in arguments if argument not in BENCHMARKS]
    for name in names or SPEED | OWN:
        subprocess.run([sys.executable, HERE / f"{name}.py", "--save", *others], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
