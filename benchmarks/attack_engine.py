"""PGD of 20 sign steps on adversarially trained checkpoints: our engine and four toolkits on the same images.

    python benchmarks/attack_engine.py --data-dir DIR     (CIFAR-10; default ../shared/data/cifar10-jpeg, where it is)
    python benchmarks/attack_engine.py --checkpoint runs/singleadv-digits-tiny-s0

All take 20 sign steps of eps/8 from a random start uniform in the ball, on the cross-entropy, against the same
weights. Ours leaves an image once it has fallen, the others take every step on every image; as "all steps" ours does
too, which shows what a pass alone gains. The peers (torchattacks, ART, Foolbox, adversarial-library) meet the network
in PyTorch's default layout, as their users hand it to them, and the first two a second time in channels-last, which our
engine uses by itself. In bf16 our engine searches in bfloat16; what counts as broken is still decided in float32. The
checkpoints are singleadv and ensemble2adv in benchmarks/models, unless another is named; without CIFAR-10 a
singleadv network is trained on digits first (half a minute). The more images withstand, the less there is to save.
"""

import argparse
import statistics
import tempfile
from copy import deepcopy
from functools import partial
from typing import Any

import foolbox
import torch
from adv_lib.attacks import pgd_linf
from art.attacks.evasion import ProjectedGradientDescentPyTorch
from art.estimators.classification import PyTorchClassifier
from common import (
    CLOCKS,
    MODELS,
    add_clock,
    data_dir_of,
    precisions,
    print_ratios,
    print_setting,
    save,
    setting,
    side_by_side,
)
from torch import Tensor, nn
from torchattacks import PGD

import ensemble_bench as eb

STEPS = 20
NETWORKS = ("singleadv-cifar10-jpeg-tiny-s0", "ensemble2adv-cifar10-jpeg-tiny-s0")
PEERS = ("torchattacks", "adversarial-robustness-toolbox", "foolbox", "adv-lib")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="run folder or .safetensors file")
    parser.add_argument("--data-dir", help="folder of the data set that the checkpoint was trained on")
    parser.add_argument("--n", type=int, default=512, help="number of test images (digits: 360 at most)")
    parser.add_argument("--rounds", type=int, default=5)
    add_clock(parser)
    parser.add_argument("--save", action="store_true", help="into benchmarks/results")
    options = parser.parse_args()
    data_dir = data_dir_of(options)
    print_setting(*PEERS)
    with tempfile.TemporaryDirectory() as folder:
        if options.checkpoint:
            paths = [options.checkpoint]
        elif data_dir:
            paths = [MODELS / name for name in NETWORKS]
        else:
            paths = [eb.train("singleadv", out=f"{folder}/run")]
        parts = [compare(eb.load(path), data_dir, options) for path in paths]
    if options.save:
        save("attack_engine", {**setting(*PEERS), "clock": options.clock, "parts": parts})


def compare(model: Any, data_dir: object, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of every contestant in every round on one model, and the robust accuracies they found."""
    trained = model.info.meta
    test = eb.data.open_source(trained["dataset"], data_dir).split("test")
    x, y = test.first(min(options.n, len(test))).batch(slice(None))
    threat = eb.ThreatModel(**trained["threat"])
    plain = deepcopy(model).to(memory_format=torch.contiguous_format)
    mine = {f"ensemble-bench {p}": partial(ours, model, x, y, threat, p) for p in precisions()}
    whole = {f"{name}, all steps": partial(run, stop_early=False) for name, run in mine.items()}
    contestants = {
        **mine,
        **whole,
        "torchattacks": partial(theirs_torchattacks, plain, x, y, threat),
        "torchattacks, channels-last": partial(theirs_torchattacks, model, x, y, threat),
        "ART": partial(theirs_art, plain, x, y, threat),
        "ART, channels-last": partial(theirs_art, model, x, y, threat),
        "Foolbox": partial(theirs_foolbox, plain, x, y, threat),
        "adversarial-library": partial(theirs_adv_lib, plain, x, y, threat),
    }
    title = f"{trained['recipe']} on {trained['data_name']}, {len(x)} test images, {threat}"
    print(f"\n{title}")
    accuracies: dict[str, list[float]] = {name: [] for name in contestants}

    def scored(name: str) -> None:
        accuracies[name].append(accuracy(model, contestants[name](), y))

    runs = {name: partial(scored, name) for name in contestants}
    seconds = side_by_side(runs, rounds=options.rounds, clock=CLOCKS[options.clock])
    robust = {name: statistics.mean(found) for name, found in accuracies.items()}
    notes = {name: f"robust accuracy {value:.4f}" for name, value in robust.items()}
    print_ratios(seconds, ours=list(mine), notes=notes)
    return {"title": title, "ours": list(mine), "seconds": seconds, "robust": robust}


def ours(
    model: nn.Module, x: Tensor, y: Tensor, threat: eb.ThreatModel, precision: str, *, stop_early: bool = True
) -> Tensor:
    attack = eb.attacks.get(f"ifgsm{STEPS}", stop_early=stop_early)
    return attack(model, x, y, threat, batch_size=128, precision=precision)


def theirs_torchattacks(model: nn.Module, x: Tensor, y: Tensor, threat: eb.ThreatModel) -> Tensor:
    attack = PGD(model, eps=threat.eps, alpha=2.5 / STEPS * threat.eps, steps=STEPS, random_start=True)
    return torch.cat([attack(a, b) for a, b in zip(x.split(128), y.split(128), strict=True)])


def theirs_art(model: nn.Module, x: Tensor, y: Tensor, threat: eb.ThreatModel) -> Tensor:
    classifier = PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    attack = ProjectedGradientDescentPyTorch(
        classifier,
        eps=threat.eps,
        eps_step=2.5 / STEPS * threat.eps,
        max_iter=STEPS,
        num_random_init=1,
        batch_size=128,
        verbose=False,
    )
    return torch.from_numpy(attack.generate(x.numpy(), y.numpy()))


def theirs_foolbox(model: nn.Module, x: Tensor, y: Tensor, threat: eb.ThreatModel) -> Tensor:
    model = foolbox.PyTorchModel(model.eval(), bounds=(0, 1))
    attack = foolbox.attacks.LinfPGD(abs_stepsize=2.5 / STEPS * threat.eps, steps=STEPS)
    batches = zip(x.split(128), y.split(128), strict=True)
    return torch.cat([attack(model, a, b, epsilons=threat.eps)[1] for a, b in batches])


def theirs_adv_lib(model: nn.Module, x: Tensor, y: Tensor, threat: eb.ThreatModel) -> Tensor:
    step = 2.5 / STEPS * threat.eps
    batches = zip(x.split(128), y.split(128), strict=True)
    return torch.cat([pgd_linf(model, a, b, threat.eps, steps=STEPS, absolute_step_size=step) for a, b in batches])


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    model.eval()
    return (model(x).argmax(dim=1) == y).double().mean().item()


if __name__ == "__main__":
    main()
