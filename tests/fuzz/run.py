"""Coverage-guided fuzzing of everything that is read from files which somebody else may have written.

    python tests/fuzz/run.py                             (an hour of one core, shared among the targets)
    python tests/fuzz/run.py --minutes 5 --target record samples
    python tests/fuzz/run.py --replay fuzz-found/record-1a2b3c4d/input

An input may be read, or refused by the error that the reader documents, in one line; anything else is a fault: another
exception, more than 10 s of the processor or 2 GB. Faults are told apart by the last line of the package in their
traceback, and the smallest input of each is kept below --found, beside what a target has learnt. Needs atheris: pip
install 'ensemble-bench[fuzz]'. The exit status is 1 if there is a fault.
"""

import argparse
import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
NAMES = (
    *("bundle", "zip", "claims", "board", "record", "pages", "samples", "journal", "checkpoint", "resume", "weights"),
    *("blackbox", "run", "parquet", "npz"),
)
LARGEST = 2**19
"""Bytes of an input."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="in all, shared among the targets")
    parser.add_argument("--target", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--found", type=Path, default=Path("fuzz-found"), help="where faults and inputs are kept")
    parser.add_argument("--replay", type=Path, nargs="+", help="read these inputs again, and nothing else")
    parser.add_argument("--inside", choices=NAMES, help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args()
    if rest and not options.inside:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if options.replay:
        return replay(options.replay)
    if importlib.util.find_spec("atheris") is None:
        parser.exit(2, "fuzzing needs atheris, which is not here: pip install 'ensemble-bench[fuzz]'\n")
    if options.inside:
        inside(options.inside, options.found, rest)
    seconds = int(60 * options.minutes / len(options.target))
    print(f"{'':12} {'inputs':>9} {'seconds':>8} {'edges':>6} {'kept':>6}  faults", flush=True)
    return max([fuzz(name, options.found, seconds) for name in options.target])


def fuzz(name: str, found: Path, seconds: int) -> int:
    """Fuzz a target in a process of its own, as libFuzzer ends the one that it runs in; 1 if there is a fault."""
    corpus = found / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    limits = (f"-max_total_time={seconds}", "-rss_limit_mb=4096", "-timeout=60", f"-max_len={LARGEST}")
    prefix = f"-artifact_prefix={found}/{name}-crash-"
    command = (sys.executable, __file__, "--inside", name, "--found", str(found), str(corpus), *limits, prefix)
    with tempfile.TemporaryFile("w+") as log:
        code = subprocess.run(command, check=False, stdout=log, stderr=subprocess.STDOUT).returncode
        log.seek(0)
        text = log.read()
    lines = re.findall(r"#(\d+)\s.*cov: (\d+) ft: \d+ corp: (\d+)", text)
    inputs, edges, kept = lines[-1] if lines else ("0", "0", "0")
    took = re.search(r"Done \d+ runs in (\d+) second", text)
    faults = re.findall(r"^FAULT (.*)", text, re.MULTILINE)
    if code:
        (found / f"{name}-log.txt").write_text(text)
        faults.append(f"the process ended with {code}: see {found / f'{name}-log.txt'}")
    print(f"{name:12} {inputs:>9} {took[1] if took else '?':>8} {edges:>6} {kept:>6}  {len(faults)}", flush=True)
    print(*(f"    {fault}\n" for fault in faults), sep="", end="", flush=True)
    return 1 if faults else 0


def inside(name: str, found: Path, arguments: list[str]) -> None:
    """Run libFuzzer on a target; does not return."""
    import atheris

    # PyTorch and its like are neither ours nor quick when instrumented.
    with atheris.instrument_imports(include=["ensemble_bench"]):
        from judging import Fault, judge, keep
        from mutating import Parts, join, mutated, split
        from targets import TARGETS

    target = TARGETS[name]
    count = len(target.files)
    scratch = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)

    def one(data: bytes) -> None:
        parts = split(data, count)
        outcome = judge(target, parts, Path(scratch.name))
        if isinstance(outcome, Fault) and keep(outcome, parts, found):
            print(f"FAULT {outcome}", flush=True)

    def mutant(data: bytes, largest: int, seed: int) -> bytes:
        def raw(part: bytes, chance: Random) -> bytes:
            return bytes(atheris.Mutate(part, len(part) + 64)) if part else chance.randbytes(8)

        parts: Parts = split(data, count)
        return join(mutated(parts, target.kinds, Random(seed), raw))[:largest]

    corpus = Path(arguments[0])
    for number, parts in enumerate(target.seeds()):
        (corpus / f"seed{number}").write_bytes(join(parts))
    atheris.Setup([sys.argv[0], *arguments], one, custom_mutator=mutant)
    atheris.Fuzz()


def replay(paths: list[Path]) -> int:
    """Say what becomes of inputs that were kept; their folders are named by the target."""
    from judging import Fault, judge
    from mutating import split
    from targets import TARGETS

    faults = 0
    for path in paths:
        target = TARGETS[path.resolve().parent.name.partition("-")[0]]
        outcome = judge(target, split(path.read_bytes(), len(target.files)))
        faults += isinstance(outcome, Fault)
        told = outcome.text if isinstance(outcome, Fault) else "read" if outcome else "refused"
        print(f"{path}: {told}", flush=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
