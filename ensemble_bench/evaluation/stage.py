"""The score of one stage of an attack."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class StageScore:
    """The score of one stage of an attack: of `attacked` images, the survivors of the stages before, `broken` fell."""

    name: str
    attacked: int
    broken: int
    seconds: float = 0.0
    passes: int = 0
    zero_gradients: int = 0

    def __add__(self, more: "StageScore") -> "StageScore":
        """This stage, and what it found on further images."""
        counts = ("attacked", "broken", "seconds", "passes", "zero_gradients")
        return replace(self, **{count: getattr(self, count) + getattr(more, count) for count in counts})
