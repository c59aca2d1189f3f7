"""The engine of this checkout against that of another commit: PGD-20, Auto-PGD and aggregator bypass, side by side.

    git worktree add ../before COMMIT
    python benchmarks/two_commits.py ../before

Each checkout runs in a process of its own, which imports the package from there; the two take turns, in an order that
changes every round, on ensemble2adv of benchmarks/models and the same test images (random ones where there is no copy
of CIFAR-10). Times are of the processor, which other programs disturb less than those of the wall. Prints the median
over rounds of this checkout's time over the other's: below 1 is faster.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared/data/cifar10-jpeg"
CHECKPOINT = ROOT / "benchmarks/models/ensemble2adv-cifar10-jpeg-tiny-s0"
ATTACKS = ("ifgsm20", "apgd20", "bypass20")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="checkout of the other commit")
    parser.add_argument("--n", type=int, default=256, help="number of images")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    sides = {"this": _start(ROOT, options.n), "other": _start(options.other.resolve(), options.n)}
    print(_ask(sides["this"], "setting"))
    for attack in ATTACKS:
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for turn in range(options.rounds + 1):
            for side in sorted(sides, reverse=turn % 2 == 0):
                answer = float(_ask(sides[side], attack))
                if turn:  # the first round warms up
                    seconds[side].append(answer)
        ratio = statistics.median(a / b for a, b in zip(seconds["this"], seconds["other"], strict=True))
        medians = {side: statistics.median(times) for side, times in seconds.items()}
        print(f"{attack:10} this {medians['this']:.3f} s, other {medians['other']:.3f} s, this / other {ratio:.3f}")
    for process in sides.values():
        process.communicate()


def _start(checkout: Path, n: int) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [sys.executable, "-P", __file__, "--serve", str(n)]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _ask(process: "subprocess.Popen[str]", request: str) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{request}\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def serve(n: int) -> None:
    """Answer each attack's name on stdin with the seconds that it took on `n` images."""
    import time

    import torch

    import ensemble_bench as eb

    model = eb.load(CHECKPOINT)
    threat = eb.ThreatModel(norm="linf", eps=8 / 255)
    if DATA.is_dir():
        x, y = eb.data.load("cifar10", split="test", n=n, data_dir=DATA)
    else:
        x = torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        y = model(x).argmax(1)
    for line in sys.stdin:
        request = line.strip()
        if request == "setting":
            print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {n} images", flush=True)
            continue
        start = time.process_time()
        eb.attacks.get(request)(model, x, y, threat, seed=0)
        print(time.process_time() - start, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(int(sys.argv[2]))
    else:
        main()
