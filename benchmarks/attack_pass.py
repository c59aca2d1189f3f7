"""What a pass costs that attacks take: of the model, of its folded twin, and of that compiled or with stacked members.

    python benchmarks/attack_pass.py                      (the published models, as they lie in leaderboards/)
    python benchmarks/attack_pass.py --wrn 16,4 --compile

A pass is forward and backward to the image of a batch. "stacked" runs the members of the folded twin as one network by
torch.func (their convolutions become grouped ones), where there are several. The last line is the attack of a
training step, IFGSM-7, with a twin that is folded anew for it, as the weights change at every step. float32 and, where
it is native, bf16. Times are those of the processor (of all its threads together), which others' work disturbs least.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from common import PUBLISHED, precisions, print_ratios, print_setting, side_by_side
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
    parser.add_argument("--compile", action="store_true", help="with torch.compile: needs a compiler and a minute")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    if options.wrn:
        models = {f"WRN-{text}": wide(text, options.members) for text in options.wrn}
    else:
        models = {path.name: eb.load(path) for path in sorted(PUBLISHED.iterdir())}
    print_setting()
    for name, model in models.items():
        for precision in precisions():
            print(f"\n{name}, batch {options.batch}, {precision}")
            with frozen(model):
                compare(model, options.batch, precision, compile=options.compile, rounds=options.rounds)


def wide(text: str, members: int) -> Ensemble:
    depth, width = text.split(",")
    shape = {"image_shape": (3, 32, 32), "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "classes": 10}
    return build(Architecture(backbone="wrn", depth=int(depth), width=float(width), members=members, **shape), seed=0)


def compare(model: Ensemble, batch: int, precision: str, *, compile: bool, rounds: int) -> None:
    x = channels_last(torch.rand(batch, 3, 32, 32, generator=generator("cpu", "x")))
    y = torch.arange(batch) % 10
    twin = twin_of(model, x)
    assert twin.folded
    contestants: dict[str, Callable[[], object]] = {
        "original": partial(one_pass, model, x, y, precision),
        "folded": partial(one_pass, twin.model, x, y, precision),
    }
    if len(model.members) > 1:
        contestants["stacked"] = partial(one_pass, Stacked(twin.model), x, y, precision)
    if compile:
        contestants["compiled"] = partial(one_pass, twin_of(model, x, compile=True).model, x, y, precision)
    print_ratios(side_by_side(contestants, rounds=rounds, clock=time.process_time), ours=["original"])

    def step(fold: bool) -> Tensor:
        network = folded(model) if fold else model
        return perturb("ifgsm7", network, x, y, THREAT, generator=generator("cpu", "start"), precision=precision)

    attacks = {"ifgsm7 on the original": partial(step, False), "ifgsm7 with folding": partial(step, True)}
    print_ratios(
        side_by_side(attacks, rounds=max(rounds // 3, 3), clock=time.process_time), ours=["ifgsm7 on the original"]
    )


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
