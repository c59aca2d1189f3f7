"""The command line with an experiment that takes seconds: one suite, few images, no black-box set.

Started as a script with the arguments of `ensemble-bench`; workers only get jobs, so that the sizes reach them.
"""

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

from ensemble_bench import cli
from ensemble_bench.experiment import sizes
from ensemble_bench.experiment.sizes import Scored, Sizes

SMALL = Sizes(suites={"quick": Scored(images=16), "paper500": Scored(images=4, recipes=("baseline",), seeds=1)})
RECIPES = "baseline,ensemble2adv,separate2adv"
ARGUMENTS = ("reproduce", "--recipes", RECIPES, "--seeds", "1", "--max-steps", "12", "--device", "cpu")
# Times; and the commit, which changes when someone works on the source tree while the tests run.
ELSEWHERE = ("seconds", "started", "date", "commit", "self_hash", "check")
MOMENT = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00")


def run_name(recipe: str, seed: int) -> str:
    """Folder of a run, which names the length that is not the preset's."""
    return f"{recipe}-digits-tiny-steps-12-s{seed}"


def digests(root: Path) -> dict[str, str]:
    """A hash of every file below `root` but the lock and the log, without what is not the experiment's doing."""
    return {
        str(path.relative_to(root)): hashlib.sha256(_timeless(path)).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix != ".lock" and path.name not in (".lock", "workers.log")
    }


def _timeless(path: Path) -> bytes:
    if path.suffix == ".json":
        return json.dumps(_without_times(json.loads(path.read_bytes()))).encode()
    if path.name == "curves.csv":
        header, *rows = (line.split(",") for line in path.read_text().splitlines())
        kept = [i for i, column in enumerate(header) if column not in ELSEWHERE]
        return "\n".join(",".join(row[i] for i in kept) for row in (header, *rows)).encode()
    return MOMENT.sub(b"", path.read_bytes()) if path.suffix == ".csv" else path.read_bytes()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(part) for key, part in value.items() if key not in ELSEWHERE}
    return [_without_times(part) for part in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sizes.SIZES = {"tiny": SMALL}
    sys.exit(cli.run(sys.argv[1:]))
