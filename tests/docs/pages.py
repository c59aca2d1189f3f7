"""The pages that people read, and the blocks of code in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    *sorted(DOCS.glob("*.md")),
    *(ROOT / folder / "README.md" for folder in ("leaderboards", "experiments", "docs/plugin-example")),
]
_BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, text, and the line that it begins in."""

    page: Path
    line: int
    language: str
    text: str


def blocks(page: Path, language: str) -> Iterator[Block]:
    """The blocks of a page in a language, "bash" or "python", in their order."""
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        if found[2] == language:
            line = text[: found.start()].count("\n") + 2
            lines = (line.removeprefix(found[1]) for line in found[3].splitlines())
            yield Block(page=page, line=line, language=language, text="\n".join(lines))


def commands(page: Path) -> list[list[str]]:
    """What follows `ensemble-bench`, or `-m ensemble_bench`, in the commands of a page."""
    found = []
    for block in blocks(page, "bash"):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line.rstrip("&"), comments=True)
            words = words[: words.index(">")] if ">" in words else words
            for program in ("ensemble-bench", "ensemble_bench"):
                if program in words:
                    found.append(words[words.index(program) + 1 :])
    return found
