"""The notebooks run from top to bottom, from any folder; their stored outputs are those of the code that they show."""

import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "notebooks"))

from execute import NOTEBOOKS, code_hash, executed  # noqa: E402


def read(path: Path) -> Any:
    """Parse a notebook."""
    return nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)  # type: ignore[no-untyped-call]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    # The kernel is this interpreter's own; it starts in an empty folder, so that no path of the checkout helps it.
    notebook = executed(path, tmp_path)
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    if "records" in path.stem:  # it shows kept records and trains nothing: its tables are the same everywhere
        assert tables(read(path)) == tables(notebook) != [], "make pages"


def tables(notebook: Any) -> list[str]:
    """The Markdown that the cells of a notebook show."""
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", ()))
    return [output["data"]["text/markdown"] for output in outputs if "text/markdown" in output.get("data", {})]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_are_those_of_its_code(path: Path) -> None:
    """`make notebooks` stores them; they differ from machine to machine, and so are not compared."""
    notebook = read(path)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert notebook.metadata["code_hash"] == code_hash(notebook), "make notebooks"
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_name_no_folder_of_a_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(/home/|/root/|/tmp/|/usr/|site-packages)", text)
    assert not re.search(r'"output_type": "(error)"', text)
