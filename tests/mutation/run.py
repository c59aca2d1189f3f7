"""Mutation testing: how many small faults, planted in the code that numbers rest on, the tests of that code notice.

    python tests/mutation/run.py                          every group (an hour or two)
    python tests/mutation/run.py --groups threat losses   some of them
    python tests/mutation/run.py --mutants FILE           those named in FILE, one a line, such as all that survived

mutmut plants the faults, one at a time, and runs the tests that call the function with the fault. Of a group with more
than --most mutants that many are drawn, by --seed. Ends with a table, and the survivors as diffs in
build/mutation/<group>/survivors.diff; tests/mutation/README.md tells of those that are known.
"""

import argparse
import configparser
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mutmut.mutation.file_mutation import mutate_file_contents
from mutmut.utils.format_utils import get_mutant_name

from ensemble_bench.records.statistics import wilson

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "mutation"
NOTICED = {"killed", "timeout", "segfault", "suspicious"}


@dataclass(frozen=True, kw_only=True)
class Group:
    """Modules of the package, the tests that are theirs, and words of pytest's that leave out slow ones."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]
    words: tuple[str, ...] = ()


# One attack that keeps its last iterate and one that keeps its best say of the engine what all fifteen say.
ENGINE = "not (pgd8 or margin8 or odi6 or pma8 or reacg10 or dlr10 or bypass8 or member or mora1 or malt2 or arc3)"
SIMULATIONS = "seed_alone or takes_seeds or two_points or holds_the_truth"
GROUPS = {
    "threat": Group(modules=("threat", "records/threat"), tests=("test_threat.py",)),
    "losses": Group(modules=("losses",), tests=("test_losses.py",)),
    "engine": Group(
        modules=tuple(
            f"attacks/engine/{name}" for name in ["attack", "chain", "counting", "loop", "state", "task", "worker"]
        ),
        tests=tuple(
            f"attacks/test_{name}.py"
            for name in ("engine", "engine_state", "engine_refusals", "engine_worker", "chain", "counting", "targets")
        ),
        words=("-k", ENGINE),
    ),
    "statistics": Group(
        modules=("records/statistics", "records/contrasts", "records/hidden_images", "evaluation/trust/recapture"),
        tests=(
            "records/test_statistics.py",
            "records/test_contrasts.py",
            "records/test_hidden_images.py",
            "evaluation/trust/test_recapture.py",
        ),
        words=(
            "-k",
            "not (killed_in_it or without_torch or seed_alone or takes_seeds or two_points or holds_the_truth)",
        ),
    ),
    "claims": Group(
        modules=("reports/claims", "reports/verdicts", "submissions/format/claims"),
        tests=(
            "reports/test_verdicts.py",
            "reports/test_verdicts_compared.py",
            "submissions/format/test_claims.py",
            "submissions/format/test_bundle.py",
        ),
        words=("-k", "not (weights or header or archive or page_and_the_csv or another_verdict)"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """What came of a group: of `mutants` there are, so many were `tried`, and what mutmut says of each by its name."""

    name: str
    mutants: int
    status: dict[str, str]

    @property
    def survivors(self) -> list[str]:
        return sorted(mutant for mutant, status in self.status.items() if status not in NOTICED)

    def __str__(self) -> str:
        tried = len(self.status)
        killed = tried - len(self.survivors)
        low, high = (100 * end for end in wilson(killed, tried))
        interval = "all were tried" if tried == self.mutants else f"{low:.0f} to {high:.0f} %"
        share = f"{100 * killed / tried:.1f} %"
        return f"| {self.name} | {self.mutants} | {tried} | {killed} | {share} | {interval} | {len(self.survivors)} |"


def main() -> int:
    """Runs the groups named on the command line, every one by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--most", type=int, default=200, help="mutants of a group; 0 for all")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--mutants", type=Path, help="a file of their names")
    options = parser.parse_args()
    named = options.mutants.read_text().split() if options.mutants else None
    rows = []
    for name in options.groups:
        prepare(name, GROUPS[name])
        mutants = mutants_of(name, GROUPS[name])
        chosen = [m for m in mutants if m in named] if named is not None else drawn(mutants, options.most, options.seed)
        if chosen:
            rows.append(Row(name=name, mutants=len(mutants), status=tried(name, chosen)))
            print(rows[-1], flush=True)
            write_survivors(rows[-1])
    print("", "| group | mutants | tried | killed | share | 95 % | survivors |", "| :-- |" + " --: |" * 6, sep="\n")
    print(*rows, sep="\n")
    return 0


def prepare(name: str, group: Group) -> None:
    """Lay out a folder where mutmut finds the package, the tests and the configuration of the group."""
    folder = WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for part in ("ensemble_bench", "tests", "docs"):
        (folder / part).symlink_to(ROOT / part)
    project, config = configparser.ConfigParser(interpolation=None), configparser.ConfigParser(interpolation=None)
    project.read(ROOT / "setup.cfg")
    config["tool:pytest"] = {**project["tool:pytest"], "addopts": "--strict-markers"}
    config["mutmut"] = {
        "source_paths": "ensemble_bench",
        "only_mutate": _lines(f"ensemble_bench/{module}.py" for module in group.modules),
        "also_copy": "docs",
        "pytest_add_cli_args_test_selection": _lines(f"tests/{test}" for test in group.tests),
        "pytest_add_cli_args": _lines(("-p", "no:cacheprovider", *group.words)),
        # Torch does not take a fork of a process that has computed something.
        "process_isolation": "forkserver",
        "timeout_multiplier": "5",
        "timeout_constant": "8",
    }
    with (folder / "setup.cfg").open("w") as file:
        config.write(file)


def _lines(values: Iterable[str]) -> str:
    return "\n" + "\n".join(values)


def mutants_of(name: str, group: Group) -> list[str]:
    """Names of all mutants of a group."""
    os.chdir(WORK / name)  # where mutmut looks for its configuration
    found = []
    for module in group.modules:
        path = Path(f"ensemble_bench/{module}.py")
        made = mutate_file_contents(str(path), path.read_text())
        found += [get_mutant_name(path, mutant) for mutant in made.mutant_names]
    return found


def drawn(mutants: Sequence[str], most: int, seed: int) -> list[str]:
    """All mutants, or a sample of so many."""
    return random.Random(seed).sample(mutants, most) if 0 < most < len(mutants) else list(mutants)


def tried(name: str, mutants: Sequence[str]) -> dict[str, str]:
    """What became of these mutants: "killed", "survived", "timeout", "no tests" and so on."""
    command = [sys.executable, "-m", "mutmut"]
    folder = WORK / name
    with (folder / "mutmut.log").open("w") as log:
        run = [*command, "run", "--max-children", "1", *mutants]
        subprocess.run(run, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=log, check=True)
    told = subprocess.run([*command, "results", "--all", "1"], cwd=folder, capture_output=True, text=True, check=True)
    status = dict(line.strip().split(": ") for line in told.stdout.splitlines() if ": " in line)
    counts = Counter(status[mutant] for mutant in mutants)
    print(f"{name}: {', '.join(f'{count} {what}' for what, count in counts.items())}", file=sys.stderr)
    return {mutant: status[mutant] for mutant in mutants}


def write_survivors(row: Row) -> None:
    """The survivors of a group as diffs, and their names."""
    folder = WORK / row.name
    (folder / "survivors.txt").write_text("".join(f"{mutant}\n" for mutant in row.survivors))
    with (folder / "survivors.diff").open("w") as file:
        for mutant in row.survivors:
            show = [sys.executable, "-m", "mutmut", "show", mutant]
            file.write(subprocess.run(show, cwd=folder, capture_output=True, text=True, check=False).stdout)


if __name__ == "__main__":
    sys.exit(main())
