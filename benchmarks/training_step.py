"""One ensemble2adv step (Algorithm 1, IFGSM-7, batch 128), ours against loops around torchattacks and ART.

    python benchmarks/training_step.py

The same two WRN-10-1 and the same batch for all. The peers run as their users would write them, with the network in
PyTorch's default layout, and a second time in channels-last, which our trainer sets by itself. Preset tiny trains in
bf16 where the processor has it. ART's AdversarialTrainer (ratio 1) trains on the adversarial half only,
so it does less work than the others. The second part prints the peak memory of `evaluate` at 500 and at 10,000 images.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchattacks
from art.attacks.evasion import ProjectedGradientDescentPyTorch
from art.defences.trainer import AdversarialTrainer
from art.estimators.classification import PyTorchClassifier
from common import CLOCKS, add_clock, precisions, print_ratios, print_setting, save, setting, side_by_side
from torch import Tensor, nn
from torch.nn import functional as F

import ensemble_bench as eb
from ensemble_bench.models.architecture import Architecture
from ensemble_bench.models.build import build
from ensemble_bench.randomness import generator
from ensemble_bench.training.algorithm1 import update
from ensemble_bench.training.attack import perturb
from ensemble_bench.training.objectives import objective_of

BATCH, STEPS, THREAT = 128, 7, eb.ThreatModel(eps=8 / 255)
PEERS = ("torchattacks", "adversarial-robustness-toolbox")
IMAGES = (500, 10_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    add_clock(parser)
    parser.add_argument("--save", action="store_true", help="into benchmarks/results")
    parser.add_argument("--evaluate", type=int, metavar="N", help=argparse.SUPPRESS)
    parser.add_argument("--data-dir", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.evaluate:
        evaluate(options.evaluate, options.data_dir)
        return
    print_setting(*PEERS)
    parts = [compare_steps(options.rounds, options.clock)]
    peaks = peak_memory()
    shown = ", ".join(f"{n} images: {mib:.0f} MiB" for n, mib in peaks.items())
    print(f"peak memory of evaluate, {shown} ({peaks[IMAGES[1]] / peaks[IMAGES[0]]:.2f}x)")
    if options.save:
        save("training_step", {**setting(*PEERS), "clock": options.clock, "parts": parts, "peak_mib": peaks})


def network() -> nn.Module:
    shape = {"image_shape": (3, 32, 32), "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "classes": 10}
    return build(Architecture(backbone="wrn", depth=10, width=1.0, members=2, **shape), seed=0)


def compare_steps(rounds: int, clock: str) -> dict[str, Any]:
    """Seconds of a step of every contestant in every round."""
    x = torch.rand(BATCH, 3, 32, 32, generator=generator("cpu", "x"))
    y = torch.randint(0, 10, (BATCH,), generator=generator("cpu", "y"))
    mine = {f"ensemble-bench {p}": ours(network(), x, y, p) for p in precisions()}
    contestants = dict(mine)
    for name, layout in (("", torch.contiguous_format), (", channels-last", torch.channels_last)):
        given = x.contiguous(memory_format=layout)
        make = partial(deepcopy(network()).to, memory_format=layout)
        contestants[f"torchattacks PGD in a loop{name}"] = plain_loop(make(), given, y)
        contestants[f"ART AdversarialTrainer{name}"] = art_trainer(make(), given, y)
    seconds = side_by_side(contestants, rounds=rounds, clock=CLOCKS[clock])
    print_ratios(seconds, ours=list(mine))
    return {"title": f"One ensemble2adv step, batch {BATCH}, IFGSM-{STEPS}", "ours": list(mine), "seconds": seconds}


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)


def ours(model: nn.Module, x: Tensor, y: Tensor, precision: str) -> partial[None]:
    optimizer, noise = sgd(model), generator("cpu", "noise")
    x = x.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        x_adv = perturb(f"ifgsm{STEPS}", model, x, y, THREAT, generator=noise, precision=precision)
        update(model.train(), optimizer, x, x_adv, y, objective=objective_of("ensemble"), precision=precision)

    return partial(step)


def plain_loop(model: nn.Module, x: Tensor, y: Tensor) -> partial[None]:
    optimizer = sgd(model)
    attack = torchattacks.PGD(model, eps=THREAT.eps, alpha=THREAT.eps / 4, steps=STEPS)

    def step() -> None:
        x_adv = attack(x, y)
        model.train()
        loss = (F.cross_entropy(model(x), y) + F.cross_entropy(model(x_adv), y)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return partial(step)


def art_trainer(model: nn.Module, x: Tensor, y: Tensor) -> partial[None]:
    classifier = PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        optimizer=sgd(model),
        input_shape=(3, 32, 32),
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    settings = {"eps": THREAT.eps, "eps_step": THREAT.eps / 4, "max_iter": STEPS, "num_random_init": 1}
    attack = ProjectedGradientDescentPyTorch(classifier, **settings, batch_size=BATCH, verbose=False)
    trainer = AdversarialTrainer(classifier, attack, ratio=1.0)
    labels = np.eye(10, dtype=np.float32)[y.numpy()]
    return partial(trainer.fit, x.numpy(), labels, batch_size=BATCH, nb_epochs=1)


def peak_memory() -> dict[int, float]:
    """Peak resident memory in MiB of evaluating an untrained network, each size in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        write_noise(Path(folder), n=max(IMAGES))
        peaks = {}
        for n in IMAGES:
            command = [sys.executable, __file__, "--evaluate", str(n), "--data-dir", folder]
            peaks[n] = (
                int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]) / 1024
            )
    return peaks


def write_noise(folder: Path, *, n: int) -> None:
    """CIFAR-shaped noise in the hub's Parquet layout."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    for split, rows in (("train", 100), ("test", n)):
        pixels = np.random.default_rng(0).integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8)
        files = []
        for image in pixels:
            Image.fromarray(image).save(file := io.BytesIO(), format="PNG")
            files.append({"bytes": file.getvalue(), "path": None})
        table = pa.table({"img": files, "label": [i % 10 for i in range(rows)]})
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")


def evaluate(n: int, data_dir: str) -> None:
    eb.evaluate(network(), dataset="cifar10", data_dir=data_dir, suite="quick", n=n)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    main()
