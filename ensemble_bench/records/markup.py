"""What somebody else wrote, as text within Markdown."""

import re

_ALWAYS = str.maketrans({**{c: f"\\{c}" for c in "\\`*~|"}, "<": "&lt;", ">": "&gt;", "&": "&amp;"})
# An underscore within a word is one; a bracket is a link's where another follows its end.
_EDGE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
_LINK = re.compile(r"\](?=[(\[:])")
_BLOCK = re.compile(r"^([#+=-]|[0-9]+(?=[.)]))")


def markdown(text: str, *, line: bool = False) -> str:
    """`text` on one line that Markdown shows as it is: no emphasis, code, link, image, cell or HTML of its own.

    Where it begins a `line` it begins no heading, list or quotation either.
    """
    text = _LINK.sub(r"\\]", _EDGE.sub(r"\\_", " ".join(text.split()).translate(_ALWAYS)))
    if line and (block := _BLOCK.match(text)):
        text = f"\\{text}" if not text[0].isdigit() else f"{block[0]}\\{text[block.end() :]}"
    return text
