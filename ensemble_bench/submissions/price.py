"""What a submission may cost to verify, told from its claims and its architecture before anything of it runs."""

import functools
from collections import Counter
from dataclasses import replace
from pathlib import Path

from ensemble_bench import data
from ensemble_bench.attacks import get
from ensemble_bench.errors import BundleError, CheckpointError, InvalidValueError
from ensemble_bench.evaluation.estimate import bound_of_suite
from ensemble_bench.leaderboard.rules import Rules, rules_file, rules_of
from ensemble_bench.models import cost
from ensemble_bench.models.architecture import Architecture
from ensemble_bench.registry import BLACKBOX, suite_of
from ensemble_bench.registry.terms import TEST
from ensemble_bench.submissions.format.bundle import Bundle
from ensemble_bench.submissions.format.limits import Limits

LEAST = 2e7
"""FLOPs that take as long as starting the operations of one pass of the smallest network."""
COPIES = 3
"""Of the weights: the model that decides, the one that is climbed, and what making them takes."""
KEPT = 2
"""Bytes of activations and their gradients, in bytes of activations."""


def load() -> None:
    """Load the attacks that prices are made of, so that the first upload does not wait for that."""
    for name in suite_of("strongest").attacks:
        if name != BLACKBOX:
            get(name)


def architecture_of(bundle: Bundle) -> Architecture:
    """The architecture that config.json describes; BundleError for one that is none, or takes no such images."""
    try:
        return Architecture.from_dict(bundle.config["architecture"])
    except (CheckpointError, InvalidValueError) as error:
        raise BundleError(f"config.json: {error}") from None


def flops_of(bundle: Bundle, *, suite: str | None = None, n: int | None = None, rules: Rules | None = None) -> float:
    """FLOPs, at most, of repeating the claims of a bundle, and of its evaluation by the rules of its board.

    Passes of every attack, as if it broke nothing, by the FLOPs of one; a pass counts for at least LEAST. `suite` and
    `n` are those of verification.verify. Rules that ask for all images count as many as a claim may be of; see
    `rules_to_price`. Raises BundleError for an architecture that is none.
    """
    architecture = architecture_of(bundle)
    images: Counter[str] = Counter()
    for claim in bundle.claims:
        if suite in (None, claim.suite):
            images[claim.suite] += min(claim.n, n or claim.n)
    if rules is not None:
        images[rules.suite] += rules.n or Limits().max_images
    weighted = architecture.gated or architecture.aggregation in ("draw", "vote")
    passes = sum(many * bound_of_suite(name, architecture, weighted=weighted) for name, many in images.items())
    try:
        return passes * max(cost.flops(architecture), LEAST)
    except RuntimeError as error:
        raise BundleError(f"config.json: {architecture.backbone} does not take such images: {error}") from error


def rules_to_price(bundle: Bundle, root: Path, data_dir: Path | None) -> Rules | None:
    """The rules that `bundle` is evaluated by below `root`, with the number of images; None for a board without any.

    Raises RecordError for a broken board.json, DataError for a data set that is not here, where they ask for all of it.
    """
    claim = bundle.claims[0]
    board = root / claim.data_name / claim.threat.slug
    if rules_file(board) is None:
        return None
    rules = rules_of(board)
    return rules if rules.n is not None else replace(rules, n=_test_images(claim.dataset, data_dir))


@functools.cache
def _test_images(dataset: str, data_dir: Path | None) -> int:
    return len(data.open_source(dataset, data_dir).split(TEST))


def check_price(
    bundle: Bundle, most: float, *, suite: str | None = None, n: int | None = None, rules: Rules | None = None
) -> None:
    """Raise BundleError for a bundle that may take more than `most` FLOPs; otherwise as `flops_of`."""
    flops = flops_of(bundle, suite=suite, n=n, rules=rules)
    if flops > most:
        raise BundleError(
            f"verifying it may take {flops:.2g} FLOPs ({len(bundle.claims)} claims, passes of every attack by FLOPs of "
            f"a pass), at most {most:.2g} are spent: claim less, on fewer images, or by shorter attacks"
        )


def batch_in(memory: int, architecture: Architecture, *, most: int) -> int:
    """How many images a batch may have, up to `most`, for an attack to fit into so many bytes.

    Raises BundleError where not even one does.
    """
    weights = COPIES * cost.BYTES * cost.parameters(architecture)
    each = KEPT * cost.activation_bytes(architecture)
    batch = int((memory - weights) // each)
    if batch < 1:
        need = (weights + each) / 2**30
        raise BundleError(f"it takes {need:.1f} GiB to attack one image, at most {memory / 2**30:.1f} are given")
    return min(batch, most)
