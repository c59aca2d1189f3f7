"""The Python in the README and the documentation runs as it is printed, page by page, on little data and few steps."""

import functools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pages import PAGES, ROOT, Block, blocks

import ensemble_bench as eb
from ensemble_bench.evaluation.runner import evaluate

# A line of a block, and why it does not run here.
NOT_HERE = {
    'model = eb.load("zoo:doubleadv-cifar10-jpeg-cpu-s0")': "looks below the working folder: test_published.py",
    'model = eb.load("runs/ensemble2adv-cifar10-small-s0")': "AutoAttack on 1,000 images: adapters/test_robustbench.py",
    "info = model_info.from_records(records": "wants a record of autoattack: leaderboard/test_model_info.py",
    'infos = model_info.read_all("model_info")': "wants RobustBench's tables: leaderboard/test_model_info.py",
    "trainer = eb.adapters.art.EnsembleTrainer(": "wants more images: adapters/test_art_trainer.py",
    "class MyAttack(Attack):": "a part of a class",
}
PYTHON = [page for page in PAGES if any(blocks(page, "python"))]


def runs_here(block: Block) -> bool:
    return not any(line in block.text for line in NOT_HERE)


def names(page: Path, folder: Path) -> dict[str, Any]:
    """What pages have in hand when they begin: a model, images and labels, and the usual imports."""
    x, y = eb.data.load("digits", split="test", n=160 if page.stem == "data" else 4)  # a batch to train on
    x, y = (x.numpy(), y.numpy()) if page.stem == "toolkits-art" else (x, y)
    model = eb.load(folder / "runs" / "ensemble2adv-digits-tiny-s0")
    given = {"eb": eb, "torch": torch, "np": np, "Path": Path, "model": model, "x": x, "y": y, "x_test": x, "y_test": y}
    return given | {"my_model": model, "one_hot": np.eye(10, dtype=np.float32)[y]}


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: str(page.relative_to(ROOT)))
def test_it_compiles(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block.text, f"{page.name}:{block.line}", "exec")


def test_what_does_not_run_is_there() -> None:
    text = "".join(block.text for page in PAGES for block in blocks(page, "python"))
    assert all(line in text for line in NOT_HERE)


def test_the_readme_needs_nothing_beforehand(prepared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(eb, "evaluate", few(evaluate), raising=False)
    (block,) = blocks(ROOT / "README.md", "python")
    found: dict[str, Any] = {}
    exec(compile(block.text, "README.md", "exec"), found)
    assert len(found["result"].samples) == 2


@pytest.mark.slow
@pytest.mark.parametrize("page", PYTHON[1:], ids=lambda page: str(page.relative_to(ROOT)))
def test_it_runs(page: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page, one after the other in one namespace."""
    folder = Path(shutil.copytree(prepared, tmp_path / "here"))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(eb, "evaluate", few(evaluate), raising=False)
    namespace = names(page, folder)
    for block in filter(runs_here, blocks(page, "python")):
        exec(compile(block.text, f"{page.name}:{block.line}", "exec"), namespace)


def few(function: Any) -> Any:
    """`evaluate` on two images, whatever number is asked for."""

    @functools.wraps(function)
    def on_two(*arguments: Any, **options: Any) -> Any:
        return function(*arguments, **{**options, "n": 2})

    return on_two
