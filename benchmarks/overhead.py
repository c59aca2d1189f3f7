"""What comes on top of the model: the engine's own work, four networks instead of one, and the start of the command.

    python benchmarks/overhead.py

On a network of random weights (WRN-10-1, images of noise): IFGSM-20 that never stops early, beside the same forward and
backward passes without an attack around them; the same attack on an ensemble of four such networks, beside one; and
`ensemble-bench --help`, which starts a process.
"""

import argparse
import subprocess
import sys
import time
from functools import partial

import torch
from attack_pass import wide
from common import CLOCKS, add_clock, print_ratios, save, setting, side_by_side
from torch import Tensor

import ensemble_bench as eb
from ensemble_bench.losses import cross_entropy
from ensemble_bench.models.calling import channels_last, frozen
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.models.folded import twin_of

STEPS, N, BATCH = 20, 512, 128
THREAT = eb.ThreatModel(eps=8 / 255)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="write the figures to benchmarks/results")
    add_clock(parser)
    options = parser.parse_args()
    x = torch.rand(N, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    one, four = wide("10,1", 1), wide("10,1", 4)
    ifgsm = eb.attacks.get(f"ifgsm{STEPS}", stop_early=False)
    y = one(x).argmax(dim=1)
    attacked = {name: partial(ifgsm, net, x, y, THREAT, batch_size=BATCH) for name, net in (("1", one), ("4", four))}
    clock = CLOCKS[options.clock]
    parts = []
    for title, ours, contestants, by in (
        ("The engine", "passes", {"passes": partial(passes, one, x, y), "attack": attacked["1"]}, clock),
        ("Networks", "one", {"one": attacked["1"], "four": attacked["4"]}, clock),
        ("`ensemble-bench --help`", "help", {"help": show_help}, time.perf_counter),
    ):
        seconds = side_by_side(contestants, rounds=options.rounds, clock=by)
        print_ratios(seconds, ours=[ours])
        parts.append({"title": title, "ours": [ours], "seconds": seconds})
    if options.save:
        save("overhead", {**setting(), "clock": options.clock, "parts": parts})


def passes(model: Ensemble, x: Tensor, y: Tensor) -> None:
    """The passes of the attack: two verdicts of the model, and between them forward and backward through its twin."""
    with frozen(model):
        twin = twin_of(model, x).model
        for start in range(0, len(x), BATCH):
            images, labels = channels_last(x[start : start + BATCH]), y[start : start + BATCH]
            with torch.no_grad():
                model(images)
            for _ in range(STEPS):
                moved = images.detach().requires_grad_()
                torch.autograd.grad(cross_entropy(twin(moved), labels).sum(), moved)
            with torch.no_grad():
                model(images)


def show_help() -> None:
    subprocess.run([sys.executable, "-m", "ensemble_bench", "--help"], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
