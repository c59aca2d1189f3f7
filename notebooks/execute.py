"""Run the notebooks and store their outputs in them, so that they can be read without running: `make notebooks`.

The outputs are those of one machine. `code_hash` in a notebook's metadata is the hash of the code that made them,
by which the tests notice outputs of other code.
"""

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = sorted(Path(__file__).resolve().parent.glob("*.ipynb"))


def code_hash(notebook: Any) -> str:
    """Hash of all code of a notebook."""
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()


def executed(path: Path, folder: Path) -> Any:
    """The notebook with outputs of this machine, run in `folder`."""
    notebook = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)  # type: ignore[no-untyped-call]
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def store(path: Path) -> None:
    """Run a notebook in an empty folder, and write it back with its outputs."""
    with tempfile.TemporaryDirectory() as folder:
        notebook = executed(path, Path(folder))
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
        if cell.cell_type == "code":  # what packages say of this machine
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata = {**notebook.metadata, "code_hash": code_hash(notebook)}
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, path)  # type: ignore[no-untyped-call]


def main() -> None:
    """Run every notebook."""
    for path in NOTEBOOKS:
        store(path)
        print(path)


if __name__ == "__main__":
    main()
