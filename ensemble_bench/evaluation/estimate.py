"""What an evaluation costs beforehand: passes, FLOPs and time, as upper bounds from the attacks' settings."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from ensemble_bench.attacks import Attack, get
from ensemble_bench.attacks.arc import ARC
from ensemble_bench.attacks.blackbox.transfer import Transfer
from ensemble_bench.attacks.engine import Chain, GradientAttack
from ensemble_bench.attacks.foreign.external import External
from ensemble_bench.attacks.malt import MALT
from ensemble_bench.evaluation.job import blocks_of
from ensemble_bench.evaluation.pace import seconds_a_pass
from ensemble_bench.evaluation.plan import EvaluationPlan
from ensemble_bench.evaluation.trust.recapture import MOST, ONE_IN
from ensemble_bench.models import cost
from ensemble_bench.models.architecture import Architecture
from ensemble_bench.models.build import skeleton
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.models.randomised import calls_of
from ensemble_bench.registry import BLACKBOX, suite_of

ASSUMPTION = "at most: as if every image were classified correctly and withstood every attack"
GUESS = "two passes a step"
# The probe runs once on at most 128 images, see trust/probe.py.
PROBE = (128, 240)
# Passes of a step, of a target and besides, of what other libraries run.
LIBRARY: Mapping[str, tuple[int, int, int]] = {"FABAttack_PT": (3, 3, 3), "SquareAttack": (1, 2, 3)}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Upper bounds of an attack on `images` images: passes (forward or backward, an image each), FLOPs, seconds.

    A backward pass to the image counts as many FLOPs as a forward pass. `guessed` says what the bound of an attack
    rests on whose passes its settings do not tell; it is then an expectation, and no bound.
    """

    model: str
    attack: str
    images: int
    passes: int
    flops: int
    seconds: float
    guessed: str = ""


@dataclass(frozen=True, kw_only=True)
class Calls:
    """Passes that an answer takes of what attacks climb, and of what decides: many where it is a mean over draws."""

    climbed: int = 1
    judged: int = 1

    @classmethod
    def of(cls, climbed: nn.Module, judge: nn.Module) -> "Calls":
        """Those of these modules."""
        return cls(climbed=calls_of(climbed), judged=calls_of(judge))


ONCE = Calls()


def passes_an_image(attack: Attack, model: nn.Module, *, classes: int, cost: Calls = ONCE) -> int:
    """Most passes that an attack spends on one image of a model with so many classes."""
    if isinstance(attack, MALT):  # besides, a forward pass and a backward pass a class to rank them
        ranked = cost.climbed * (1 + min(attack.candidates, classes - 1))
        return ranked + passes_an_image(Chain(name="", stages=attack.stages), model, classes=classes, cost=cost)
    if isinstance(attack, Chain):
        stages = [s for s in attack.parts(model) if (getattr(s, "target", None) or 0) < classes]
        return sum(passes_an_image(stage, model, classes=classes, cost=cost) for stage in stages)
    if isinstance(attack, GradientAttack):
        # One forward for the clean verdict. Of each restart: forward and backward at every step, the last verdict, and
        # where the best iterate is kept, the value of the last and the verdict on the best.
        judged = 2 * cost.judged + cost.climbed if attack.keep == "best" else cost.judged
        return cost.judged + attack.restarts * (2 * cost.climbed * attack.steps + judged)
    if isinstance(attack, Transfer):
        return 2 * cost.judged
    if isinstance(attack, ARC):
        # A round asks every member for its boundaries (forward, and backward a class), and then the whole.
        members = len(model.members) if isinstance(model, Ensemble) else 1
        asked = 1 + 1 + min(attack.classes, classes - 1)
        return 3 * cost.judged + attack.steps * (members * cost.judged + asked * cost.climbed)
    step, target, more = LIBRARY.get(getattr(attack, "attack", ""), (2, 1, 3))
    steps = int(getattr(attack, "steps", 1))
    arguments = getattr(attack, "arguments", {})
    targets = min(int(arguments.get("n_target_classes", 1)), classes - 1)
    runs = targets * (target + step * steps) * int(arguments.get("n_restarts", 1))
    return more * cost.judged + runs * cost.climbed


def is_guess(attack: Attack) -> bool:
    """Whether the passes of an attack are not known: those of toolkits, apart from AutoAttack's own."""
    return isinstance(attack, External) and attack.attack not in LIBRARY


def estimate(plan: EvaluationPlan, *, sizes: int = 1) -> list[Cost]:
    """Cost of every attack of an evaluation, clean predictions, probe and recapture; nothing is attacked.

    The time is that of a few passes of this model on this machine. With several eps, images that fell at a smaller one
    are attacked again here. A black-box set that does not exist yet is not built.
    """
    plan = replace(plan, subject=plan.subject.enter(plan.images, plan.budget.device))
    entered = plan.subject.entered
    assert entered is not None
    model, calls = entered.model, Calls.of(entered.climbed, entered.judge)
    n, classes = len(plan.images), len(plan.source.classes)
    flops = cost.flops(model, plan.source.image_shape)
    speed = seconds_a_pass(model, plan.source.image_shape, plan.budget, classes=classes, images=n)

    def priced(attack: str, images: int, each: int, guessed: str = "") -> Cost:
        passes = images * each * sizes
        seconds = passes * speed
        return Cost(
            model=plan.subject.name,
            attack=attack,
            images=images,
            passes=passes,
            flops=passes * flops,
            seconds=seconds,
            guessed=guessed,
        )

    drawn = 2 * calls.judged if entered.randomised else 0  # behind the shares at every adversarial image
    costs, alone = [priced("clean", n, 2 * calls.judged)], 0
    for name, attack in _attacks(plan):
        each = 2 * calls.judged if attack is None else passes_an_image(attack, model, classes=classes, cost=calls)
        each += drawn * (len(attack.parts(model)) if attack is not None else 1)
        alone += each * (1 + (name in plan.suite.ensembles))
        one_in = plan.one_in.get(name, 1)
        met = sum(-(-(block.stop - block.start) // one_in) for block in blocks_of(n))
        rests = [GUESS] if attack is not None and is_guess(attack) else []
        rests += [f"the nearest one in {one_in}, more where some fall"] if one_in > 1 else []
        costs.append(priced(name, met, each, "; ".join(rests)))
    if plan.suite.probe:
        images, each = PROBE
        costs.append(priced("probe", min(images, n), each * max(calls.climbed, calls.judged)))
    if plan.suite.recapture and plan.suite.cascade and not entered.randomised:
        costs.append(priced("recapture", min(-(-n // ONE_IN) + 1, 2 * MOST), alone))
    return costs


def _attacks(plan: EvaluationPlan) -> Iterator[tuple[str, Attack | None]]:
    """Attacks of the plan by name; None for the black-box one, whose set need not exist."""
    for name in plan.names():
        attack = None if name == BLACKBOX else get(name)
        yield (name if attack is None else attack.name), attack


def bound_of_suite(suite: str, architecture: Architecture, *, weighted: bool) -> float:
    """Most passes that a suite spends on one image of an ensemble, whose parts it scores too where it has `views`.

    An attack on the nearest survivors counts as if it broke none of them, and so met no more.
    A pass of one member counts as its share of a pass of the ensemble. The probe counts as if every image met it,
    and so does, with one image in ten, each attack alone.
    """
    chosen, model = suite_of(suite), skeleton(architecture, device="meta")
    classes, members = architecture.classes, architecture.members

    def total(names: Sequence[str], one_in: Mapping[str, int]) -> float:
        each = ((name, 2 if name == BLACKBOX else passes_an_image(get(name), model, classes=classes)) for name in names)
        return sum(passes / one_in.get(name, 1) for name, passes in each)

    names = tuple(name for name in chosen.attacks if members > 1 or name not in chosen.ensembles)
    names = (*names, *chosen.weighted) if weighted else names
    passes: float = 2 + total(names, chosen.one_in) + (PROBE[1] if chosen.probe else 0)
    if chosen.recapture and chosen.cascade:
        passes += total((*names, *filter(chosen.ensembles.__contains__, names)), {}) / ONE_IN
    if chosen.views and members > 1:
        # Every member on its own is together one pass of the ensemble; then the logit average.
        passes += 2 * (2 + total(chosen.views, chosen.one_in))
    return passes
