"""`python -m ensemble_bench` and the console script `ensemble-bench`."""

import os
import sys


def main() -> None:
    """Run the command line on this process's arguments and exit with its status."""
    # OpenMP's idle threads spin for milliseconds by default: where others use the cores too, small networks then train
    # many times slower. Not to spin at all costs a third on a quiet machine. Read when torch loads, so it stands here.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    from ensemble_bench.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
