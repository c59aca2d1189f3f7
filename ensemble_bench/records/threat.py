"""Threat: how far an adversary may move an image, as data; `ThreatModel` adds the geometry."""

import math
from dataclasses import dataclass
from typing import Any

from ensemble_bench.errors import InvalidValueError

NORMS = ("linf", "l2")


@dataclass(frozen=True, kw_only=True, order=True)
class Threat:
    """What the attacker may do: move an image in [0, 1] by at most `eps` > 0 in `norm` ("linf" or "l2")."""

    norm: str
    eps: float

    def __str__(self) -> str:
        return f"{self.norm} {self.eps_text}"

    @property
    def slug(self) -> str:
        """Norm and eps for names of files, without dots: "linf8of255", or "l2-0_5"."""
        levels = self.eps * 255
        if abs(levels - round(levels)) < 1e-6:
            return f"{self.norm}{levels:.0f}of255"
        return f"{self.norm}-{self.eps:.6g}".replace(".", "_")

    @property
    def eps_text(self) -> str:
        """`eps` as people write it: in 255ths where it is a whole number of them, but "1" for 255 of them."""
        levels = round(self.eps * 255)
        whole = levels % 255 and math.isclose(self.eps, levels / 255, rel_tol=1e-6)
        return f"{levels}/255" if whole else f"{self.eps:g}"

    def as_dict(self) -> dict[str, Any]:
        """Norm and eps, as records hold them."""
        return {"norm": self.norm, "eps": self.eps}

    @classmethod
    def parse(cls, eps: str, norm: str = "linf") -> "Threat":
        """Threat of an eps as people write it, "8/255" or "0.5"; raises InvalidValueError as `parse_eps`."""
        return cls(norm=norm, eps=parse_eps(eps))


def parse_eps(text: str) -> float:
    """Read an eps written as a number or as a fraction: "8/255" is 0.03137.

    Raises InvalidValueError, naming the value, unless it is a positive number.
    """
    above, _, below = text.partition("/")
    try:
        if not text.isascii() or "_" in text:
            raise ValueError("float() takes digits of other scripts, and underscores")
        eps = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        eps = math.nan
    if not 0 < eps < math.inf:
        raise InvalidValueError(f"eps is {text!r}: it must be a positive number or fraction, such as 0.03 or 8/255")
    return eps
