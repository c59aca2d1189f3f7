"""`python -m ensemble_bench` and the console script `ensemble-bench`."""

import os
import sys


def main() -> None:
    """Run the command line on this process's arguments and exit with its status."""
    # OpenMP's idle threads spin by default: on cores that are shared, small networks then train many times slower.
    # It is read when torch loads, so it stands here.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from ensemble_bench.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
