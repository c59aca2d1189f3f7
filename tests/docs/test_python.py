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

# The first line of a block, and why it does not run here.
NOT_HERE = {
    'model = eb.load("zoo:singleadv-cifar10-jpeg-tiny-s0")': "looks below the working folder",
    'scores = eb.adapters.robustbench.benchmark(model, n=1000, data_dir="DIR")': "AutoAttack on 1,000 images",
    "class MyAttack(Attack):": "a part of a class",
}
PYTHON = [page for page in PAGES if any(blocks(page, "python"))]


def runs_here(block: Block) -> bool:
    return not any(line in NOT_HERE for line in block.text.splitlines())


def names(folder: Path) -> dict[str, Any]:
    """What pages have in hand when they begin: a model, images and labels, and the usual imports."""
    x, y = eb.data.load("digits", split="test", n=4)
    model = eb.load(folder / "runs" / "ensemble2adv-digits-tiny-s0")
    given = {"eb": eb, "torch": torch, "np": np, "Path": Path, "model": model, "x": x, "y": y, "x_test": x, "y_test": y}
    return given | {"one_hot": np.eye(10, dtype=np.float32)[y]}


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: str(page.relative_to(ROOT)))
def test_it_compiles(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block.text, f"{page.name}:{block.line}", "exec")


def test_what_does_not_run_is_there() -> None:
    lines = {line for page in PAGES for block in blocks(page, "python") for line in block.text.splitlines()}
    assert NOT_HERE.keys() <= lines


def test_the_readme_needs_nothing_beforehand(prepared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(eb, "evaluate", few(evaluate), raising=False)
    (block,) = blocks(ROOT / "README.md", "python")
    found: dict[str, Any] = {}
    exec(compile(block.text, "README.md", "exec"), found)
    assert found["result"].suite == "quick"


@pytest.mark.slow
@pytest.mark.parametrize("page", PYTHON[1:], ids=lambda page: str(page.relative_to(ROOT)))
def test_it_runs(page: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page, one after the other in one namespace."""
    folder = Path(shutil.copytree(prepared, tmp_path / "here"))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(eb, "evaluate", few(evaluate), raising=False)
    namespace = names(folder)
    for block in filter(runs_here, blocks(page, "python")):
        exec(compile(block.text, f"{page.name}:{block.line}", "exec"), namespace)


def few(function: Any) -> Any:
    """`evaluate` on two images, whatever number is asked for."""

    @functools.wraps(function)
    def on_two(*arguments: Any, **options: Any) -> Any:
        return function(*arguments, **{**options, "n": 2})

    return on_two
