"""PGD-20 on an adversarially trained checkpoint: our engine, torchattacks and ART on the same images in one run.

    python benchmarks/attack_engine.py --data-dir DIR     (CIFAR-10; default ../shared/data/cifar10-jpeg, where it is)
    python benchmarks/attack_engine.py --checkpoint runs/singleadv-digits-tiny-s0

All take 20 sign steps of eps/8 from a random start uniform in the ball, on the cross-entropy, against the same
weights. The peers meet the network in PyTorch's default layout, as their users hand it to them, and a second time in
channels-last, which our engine uses by itself. In bf16 our engine searches in bfloat16; what counts as broken is still
decided in float32. The checkpoint is the published singleadv WRN-10-1, unless another is named; without CIFAR-10 a
singleadv network is trained on digits first (half a minute). The more images withstand, the less there is to save.
"""

import argparse
import os
import tempfile
from copy import deepcopy
from functools import partial
from pathlib import Path

import torch
from art.attacks.evasion import ProjectedGradientDescentPyTorch
from art.estimators.classification import PyTorchClassifier
from common import precisions, print_ratios, print_setting, side_by_side
from torch import Tensor, nn
from torchattacks import PGD

import ensemble_bench as eb

STEPS = 20
ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "leaderboards/cifar10-jpeg/linf8of255/weights/singleadv-cifar10-jpeg-tiny-s0"
DATA = ROOT.parent / "shared/data/cifar10-jpeg"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="run folder or .safetensors file")
    parser.add_argument("--data-dir", help="folder of the data set that the checkpoint was trained on")
    parser.add_argument("--n", type=int, default=512, help="number of test images (digits: 360 at most)")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    data_dir = options.data_dir or os.environ.get("ENSEMBLE_BENCH_DATA") or (DATA if DATA.is_dir() else None)
    with tempfile.TemporaryDirectory() as folder:
        path = options.checkpoint or (PUBLISHED if data_dir else eb.train("singleadv", out=f"{folder}/run"))
        model = eb.load(path)
    trained = model.info.meta
    test = eb.data.open_source(trained["dataset"], data_dir).split("test")
    x, y = test.first(min(options.n, len(test))).batch(slice(None))
    threat = eb.ThreatModel(**trained["threat"])

    plain = deepcopy(model).to(memory_format=torch.contiguous_format)
    mine = {f"ensemble-bench ifgsm{STEPS} {p}": partial(ours, model, x, y, threat, p) for p in precisions()}
    contestants = mine | {
        "torchattacks PGD, default layout": partial(theirs_torchattacks, plain, x, y, threat),
        "torchattacks PGD, channels-last": partial(theirs_torchattacks, model, x, y, threat),
        "ART ProjectedGradientDescent, default layout": partial(theirs_art, plain, x, y, threat),
        "ART ProjectedGradientDescent, channels-last": partial(theirs_art, model, x, y, threat),
    }
    print_setting("torchattacks", "adversarial-robustness-toolbox")
    print(f"{trained['recipe']} on {trained['data_name']}, {len(x)} test images, {threat}")
    accuracies: dict[str, list[float]] = {name: [] for name in contestants}

    def scored(name: str) -> None:
        accuracies[name].append(accuracy(model, contestants[name](), y))

    seconds = side_by_side({name: partial(scored, name) for name in contestants}, rounds=options.rounds)
    notes = {name: f"robust accuracy {sum(a) / len(a):.4f}" for name, a in accuracies.items()}
    print_ratios(seconds, ours=list(mine), notes=notes)


def ours(model: nn.Module, x: Tensor, y: Tensor, threat: eb.ThreatModel, precision: str) -> Tensor:
    return eb.attacks.get(f"ifgsm{STEPS}")(model, x, y, threat, batch_size=128, precision=precision)


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


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    model.eval()
    return (model(x).argmax(dim=1) == y).double().mean().item()


if __name__ == "__main__":
    main()
