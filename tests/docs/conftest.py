"""A folder with all that the pages take for granted, and presets that take a moment."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cifar_files import random_images, write_batches
from PIL import Image

from ensemble_bench.cli import run
from ensemble_bench.leaderboard.rules import Rules, write_rules
from ensemble_bench.models.architecture import Architecture
from ensemble_bench.models.build import build
from ensemble_bench.training import presets
from ensemble_bench.training.presets import Network

RUN = "runs/ensemble2adv-digits-tiny-s0"
ENTRY = {
    "link": "https://example.org",
    "name": "Standardly trained model",
    "authors": "",
    "additional_data": False,
    "number_forward_passes": 1,
    "dataset": "cifar10",
    "venue": "N/A",
    "architecture": "WideResNet-28-10",
    "eps": "8/255",
    "clean_acc": "94.78",
    "reported": "0.0",
    "autoattack_acc": "0.0",
}


@pytest.fixture(scope="module")
def brief() -> Iterator[None]:
    """The presets of the pages, for a single step of a tiny network."""
    network = Network(backbone="small_cnn", width=0.25)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("tiny", "cpu"):
            preset = presets.PRESETS[name]
            settings = {
                data: replace(
                    those,
                    network=network,
                    surrogates=(network, network),
                    surrogate_epochs=1,
                    steps=1,
                    epochs=None,
                    evaluate_n=2,
                )
                for data, those in preset.settings.items()
            }
            patch.setitem(presets.PRESETS, name, replace(preset, settings=settings))  # type: ignore[arg-type]
        yield


@pytest.fixture(scope="module")
def prepared(brief: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages take for granted: runs with a record, data, models and boards."""
    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for recipe in ("singleadv", "ensemble2adv"):
            assert run(["train", recipe]) == 0
            assert run(["evaluate", f"runs/{recipe}-digits-tiny-s0", "--suite", "quick", "--n", "2"]) == 0
        assert run(["submit", RUN, "--to", "leaderboards"]) == 0
    write_batches(folder / "data" / "cifar-10-batches-py", random_images(train=160, test=10))
    for split in ("train", "test"):
        for flower in ("daisy", "tulip"):
            (folder / "flowers" / split / flower).mkdir(parents=True)
            for i, image in enumerate(random_images(train=80)["train"][0]):
                Image.fromarray(image.transpose(1, 2, 0)).save(folder / "flowers" / split / flower / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(["train", "ensemble2adv", "--dataset", "folder:flowers"]) == 0
    (folder / "my_package").mkdir()
    (folder / "my_package" / "my_module.py").write_text(
        "import torch\n\n\ndef make_model():\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10)).eval()\n"
    )
    wide = Architecture(
        backbone="wrn", depth=28, width=10, classes=10, image_shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.25,) * 3
    )
    torch.save(build(wide).members[0][-1].state_dict(), folder / "weights.pt")
    write_rules(Rules(suite="ifgsm1+probe", n=2, seed=0, operator="us", clean=False), folder / "leaderboards")
    entry = folder / "model_info" / "cifar10" / "Linf" / "Standard.json"
    entry.parent.mkdir(parents=True)
    entry.write_text(json.dumps(ENTRY))
    return folder
