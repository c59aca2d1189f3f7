"""`python -m ensemble_bench` and the console script `ensemble-bench`."""

import sys


def main() -> None:
    """Run the command line on this process's arguments and exit with its status."""
    from ensemble_bench.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
