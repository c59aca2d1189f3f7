"""What a record says of the attacks of a cascade, each run alone on a sample of the images."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Alone:
    """An attack without a cascade before it: of the sampled images it broke `broken`, in so many `passes`.

    `whole` is there for an attack on the members: how many the same loss broke on the whole model's output.
    """

    name: str
    broken: int
    passes: int
    whole: int | None = None


@dataclass(frozen=True, kw_only=True)
class Recapture:
    """All attacks of a cascade, each alone, on a random sample of the images that stand and of those that it broke.

    Of the record's standing images `survivors` were sampled, in equal share as the `broken` ones; `fell` of the sampled
    survivors fell to some attack. `hidden` estimates how many of all standing images are breakable, `low` to `high` is
    its 95 % interval. Attacks that follow one gradient miss the same images, so that the estimate is a lower bound.
    """

    survivors: int
    broken: int
    fell: int
    alone: tuple[Alone, ...]
    hidden: float
    low: float
    high: float
    seconds: float

    def __str__(self) -> str:
        """What it says, in a line."""
        return (
            f"{self.fell} of {self.survivors} sampled survivors fall to an attack run alone; at least about "
            f"{self.hidden:.0f} [{self.low:.0f}, {self.high:.0f}] images that stand are breakable"
        )
