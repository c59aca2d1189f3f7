"""How large the experiment is: images and precision of every suite, and seeds of the recipes that cost most."""

from collections.abc import Mapping
from dataclasses import dataclass

from ensemble_bench.errors import InvalidValueError

# Four members, four times the network, or a further network in training: what costs a multiple of all others.
LARGE = ("ensemble4adv", "quadadv", "separate4adv", "gated2adv")


# The ensembles whose members the paper's appendix takes apart, and their like.
APART = ("ensemble2adv", "ensemble4adv", "separate2adv")


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Who meets a suite: the first `seeds` seeds (None: all) of `recipes` (None: all), on so many test `images`.

    Its attacks search in `precision`, None: in the experiment's. There is a record for each multiple of the data set's
    eps in `times`.
    """

    images: int
    recipes: tuple[str, ...] | None = None
    seeds: int | None = None
    precision: str | None = None
    times: tuple[float, ...] = (1,)

    def takes(self, recipe: str, seed: int) -> bool:
        """Whether the run of this recipe and seed meets the suite."""
        return (self.recipes is None or recipe in self.recipes) and (self.seeds is None or seed < self.seeds)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The suites, or attacks, in the order in which a model meets them; a smaller test set is used whole.

    `large_seeds` is how many seeds the recipes in LARGE get, None: as many as the others.
    """

    suites: Mapping[str, Scored]
    large_seeds: int | None = None


# In the precision in which boards rank by it.
STRONGEST = Scored(images=1000, precision="float32")

# The curve over eps, by one attack that comes near AutoAttack; no suite that decides, whose claims are about one eps.
CURVE, TIMES = "sweep10", (0.25, 0.5, 0.75, 1, 1.25, 1.5)

_TINY = Sizes(
    # On the digits, whose test set is 360 images: under ten minutes on two cores in all. What takes hundreds of steps
    # one after the other costs as much on few images as on many, and so is for one seed; suite strongest takes a minute
    # a model and is left out.
    suites={
        "paper": Scored(images=1000),
        "quick": Scored(images=1000),
        "paper500": Scored(images=60, seeds=1),
        "appendix": Scored(images=60, seeds=1, recipes=("ensemble4adv",)),
    },
    large_seeds=1,
)
_CPU = Sizes(
    # A night of training on two cores, and days of evaluation: the primary suites, quick and strongest, have the sizes
    # that the claims were named with.
    suites={
        "paper": Scored(images=1000),
        "quick": Scored(images=10_000),
        "paper500": Scored(images=500),
        "appendix": Scored(images=200, recipes=APART),
        "strongest": STRONGEST,
        CURVE: Scored(images=1000, seeds=1, times=TIMES),
        "autoattack": Scored(images=1000, seeds=1),
    },
    large_seeds=1,
)
_WHOLE = Sizes(
    # What a GPU can take, and on the digits, whose networks and test set are small, two cores in some hours.
    suites={
        "paper": Scored(images=10_000),
        "quick": Scored(images=10_000),
        "paper500": Scored(images=1000),
        "appendix": Scored(images=1000, recipes=APART),
        "strongest": STRONGEST,
        CURVE: Scored(images=1000, times=TIMES),
        "autoattack": Scored(images=1000),
    },
)
SIZES: Mapping[str, Sizes] = {"tiny": _TINY, "cpu": _CPU, "small": _WHOLE, "modern": _WHOLE, "paper": _WHOLE}


def sizes_of(preset: str, dataset: str) -> Sizes:
    """Sizes for a preset on a data set; raises InvalidValueError for a preset that no experiment is laid out for."""
    if preset not in SIZES:
        raise InvalidValueError(f"preset is {preset!r}: the experiment is laid out for {', '.join(SIZES)}")
    return _WHOLE if dataset == "digits" and preset != "tiny" else SIZES[preset]
