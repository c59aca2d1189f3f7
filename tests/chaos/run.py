"""Kills, full disks, wrong bits and company: every command ends with the files of one that nobody disturbed.

    python tests/chaos/run.py --kills 50            (about an hour of a core)
    python tests/chaos/run.py --kills 6 --only train evaluate --seed 3

Of every command an undisturbed run is the reference. It is then killed (SIGKILL, the whole process group) at random
moments and called again, until nothing is left to kill; runs with files limited to a random size, as on a full disk,
and then without; runs twice at once; and meets its own results with one bit flipped in a random file. Counted are runs
that end with other files than the reference (times aside), hidden files that stay behind, and failures that are not one
line with exit status 2. The exit status is 1 if there is any.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from disturbing import SCENES, disturb


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="in all, shared among the commands")
    parser.add_argument("--flips", type=int, default=30, help="in all")
    parser.add_argument("--disks", type=int, default=12, help="runs on a full disk, in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=[scene.name for scene in SCENES])
    options = parser.parse_args()
    chosen = [scene for scene in SCENES if scene.name in (options.only or scene.name)]
    chance, wrong = random.Random(options.seed), 0
    print(f"{'':12} {'kills':>6} {'disks':>6} {'pairs':>6} {'flips':>6}  faults")
    for number, scene in enumerate(chosen):
        kills, disks, flips = (_share(n, number, len(chosen)) for n in (options.kills, options.disks, options.flips))
        with tempfile.TemporaryDirectory() as folder:
            found = disturb(scene, Path(folder), chance, kills=kills, disks=disks, flips=flips)
        wrong += len(found.faults)
        shown = " ".join(f"{found.counts[name]:>6}" for name in ("kills", "disks", "pairs", "flips"))
        print(f"{scene.name:12} {shown}  {len(found.faults)}", *found.faults, sep="\n    ", flush=True)
    return 1 if wrong else 0


def _share(n: int, number: int, of: int) -> int:
    return n // of + (number < n % of)


if __name__ == "__main__":
    sys.exit(main())
