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
            # an alias, as of a dict, says nothing of where it was made
            made_in = getattr(getattr(home, name), "__module__", home.__name__)
            assert made_in in (home.__name__, "builtins"), f"{name} is made in {made_in}, not {module}.py"
