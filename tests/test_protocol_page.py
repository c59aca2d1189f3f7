"""docs/protocol.md: every object of its table is where it says."""

import importlib
import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs/protocol.md"


def test_every_object_of_the_table_is_in_its_module() -> None:
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| `([\w/]+)\.py` \|", PAGE.read_text(), re.MULTILINE)
    assert len(rows) == 11
    for names, module in rows:
        home = importlib.import_module(f"ensemble_bench.{module.replace('/', '.')}")
        for name in re.findall(r"\w+", names):
            assert hasattr(home, name), f"{name} is not in {module}.py"
