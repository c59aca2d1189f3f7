"""What a pass costs that attacks take: of the model, of its folded twin, and of that compiled or with stacked members.

    python benchmarks/attack_pass.py [--save]             (the networks in benchmarks/models)
    python benchmarks/attack_pass.py --wrn 16,4 --no-compile

A pass is forward and backward to the images of a batch. "stacked" runs the members of the folded twin as one network by
torch.func (their convolutions become grouped ones), where there are several. Then the attack of a training step,
IFGSM-7, with a twin that is folded anew for it, as the weights change at every step. float32 and, where it is native,
bf16.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from common import CLOCKS, MODELS, add_clock, precisions, print_ratios, print_setting, save, setting, side_by_side
from torch import Tensor, nn
from torch.nn import functional as F

import ensemble_bench as eb
from ensemble_bench.models.architecture import Architecture
from ensemble_bench.models.build import build
from ensemble_bench.models.calling import channels_last, frozen
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.models.folded import folded, twin_of
from ensemble_bench.randomness import generator
from ensemble_bench.training.attack import perturb

THREAT = eb.ThreatModel(eps=8 / 255)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wrn", action="append", metavar="DEPTH,WIDTH", help="a network of random weights instead")
    parser.add_argument("--members", type=int, default=1, help="members of that")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="with torch.compile too, if it works here",
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--save", action="store_true", help="write the figures to benchmarks/results")
    add_clock(parser)
    options = parser.parse_args()
    if options.wrn:
        models = {f"WRN-{text}": wide(text, options.members) for text in options.wrn}
    else:
        models = {path.name: eb.load(path) for path in sorted(MODELS.glob("*-s0"))}
    print_setting()
    parts = []
    for name, model in models.items():
        for precision in precisions():
            with frozen(model):
                for part in compare(model, precision, options):
                    parts.append({**part, "title": f"{name}, {part['title']}, batch {options.batch}, {precision}"})
                    print(f"\n{parts[-1]['title']}")
                    print_ratios(part["seconds"], ours=part["ours"])
    if options.save:
        save("attack_pass", {**setting(), "clock": options.clock, "parts": parts})


def wide(text: str, members: int) -> Ensemble:
    depth, width = text.split(",")
    shape = {"image_shape": (3, 32, 32), "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "classes": 10}
    return build(Architecture(backbone="wrn", depth=int(depth), width=float(width), members=members, **shape), seed=0)


def compare(model: Ensemble, precision: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Seconds of a pass, and of a training step's attack."""
    clock = CLOCKS[options.clock]
    x = channels_last(torch.rand(options.batch, 3, 32, 32, generator=generator("cpu", "x")))
    y = torch.arange(options.batch) % 10
    twin = twin_of(model, x)
    assert twin.folded
    contestants: dict[str, Callable[[], object]] = {
        "the model": partial(one_pass, model, x, y, precision),
        "folded": partial(one_pass, twin.model, x, y, precision),
    }
    if len(model.members) > 1:
        contestants["folded, members stacked"] = partial(one_pass, Stacked(twin.model), x, y, precision)
    if options.compile and (compiled := twin_of(model, x, compile=True)).compiled:
        contestants["folded, compiled"] = partial(one_pass, compiled.model, x, y, precision)
    seconds = side_by_side(contestants, rounds=options.rounds, clock=clock)
    yield {"title": "a pass", "ours": ["folded"], "seconds": seconds}

    def step(fold: bool) -> Tensor:
        network = folded(model) if fold else model
        return perturb("ifgsm7", network, x, y, THREAT, generator=generator("cpu", "start"), precision=precision)

    attacks = {"the model": partial(step, False), "folded": partial(step, True)}
    seconds = side_by_side(attacks, rounds=max(options.rounds // 3, 3), clock=clock)
    yield {"title": "IFGSM-7 of a training step", "ours": ["folded"], "seconds": seconds}


def one_pass(model: nn.Module, x: Tensor, y: Tensor, precision: str) -> Tensor:
    x = x.detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss = F.cross_entropy(model(x).float(), y, reduction="sum")
    return torch.autograd.grad(loss, x)[0]


class Stacked(nn.Module):
    """An ensemble whose members, alike but for their weights, run as one network."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        assert isinstance(model, Ensemble)
        self.model = model
        states = [{**dict(m.named_parameters()), **dict(m.named_buffers())} for m in model.members]
        self.weights = {name: torch.stack([state[name] for state in states]) for name in states[0]}

    def forward(self, x: Tensor) -> Tensor:
        def member(state: dict[str, Tensor]) -> Tensor:
            return torch.func.functional_call(self.model.members[0], state, (x,))

        return self.model.aggregate(torch.vmap(member)(self.weights), x)


if __name__ == "__main__":
    main()
