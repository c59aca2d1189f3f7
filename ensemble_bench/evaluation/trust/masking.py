"""Signs that a number is too good: gradients that are masked, attacks that contradict each other."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ensemble_bench import registry
from ensemble_bench.evaluation.scoring import Scores
from ensemble_bench.evaluation.stage import StageScore
from ensemble_bench.evaluation.triage import ATTACK, SHARE, Look
from ensemble_bench.evaluation.trust.conduct import conduct_of, family_of, gradient_free, is_white_box
from ensemble_bench.evaluation.trust.probe import Probe, Tried
from ensemble_bench.records import AttackResult, Blackbox, NamedWarning, Randomised
from ensemble_bench.records.statistics import mcnemar

# Significance of a difference between two attacks on the same images.
LEVEL = 0.01
# Steps that any attack needs to cross the ball: with fewer, PGD's Adam loses to a single full step on honest models.
MANY_STEPS = 20
# Clean accuracy that surrogates should have: images that fool a poor network need not be hard for a good one.
SURROGATE = 0.9

# Every warning, and when it is raised; docs/masking.md has the same table.
_GRADIENT_FREE = "an attack without gradients breaks more than 1 % of the images that those with gradients missed"
WARNINGS: Mapping[str, str] = {
    "unstable-predictions": "a clean prediction changes when the model is asked again",
    "randomised": "the model answers the same images differently: what counts is its expected accuracy over many draws",
    "probabilities-not-logits": "the model gives probabilities; attacks and verdicts took their log",
    "rescaled-logits": "logits lie so far apart, or so near, that gradients vanish; they were taken times a power of 2",
    "coarse-logits": "the logits of a network take few different values: they are rounded or saturated",
    "mixed-versions": "images were scored in part under other versions, or on another kind of processor, than the rest",
    "zero-gradients": "more than 1 % of the images have a gradient of exactly zero at the start",
    "single-step-beats-multi-step": "one step breaks more than many do (McNemar, p < 0.01)",
    "more-steps-weaker": "an attack leaves more standing than the same one with half its steps or fewer (p < 0.01)",
    "blackbox-breaks-more": _GRADIENT_FREE,
    "square-breaks-more": _GRADIENT_FREE,
    "gradient-free-breaks-more": _GRADIENT_FREE,
    "large-eps-not-zero": "at an eps that reaches grey from every image, more than 1 % still stand",
    "autoattack-weaker-than-pgd": "plain PGD of no more steps breaks what AutoAttack's own attacks missed",
    "implementations-disagree": (
        "an attack that several run on the same settings leaves more standing with one of them "
        "(p < 0.01 over all pairs)"
    ),
    "weak-surrogates": "a surrogate of the black-box set is right on less than 90 % of the clean images",
    "catastrophic-overfitting": (
        "in training, accuracy under one step held, that under many fell, and their gap grew by more than chance"
    ),
    "no-plateau": "an attack that doubles its steps until that breaks nothing reached its last doubling before",
    "dlr-falls-back": "the model has too few classes for a difference of logits ratio; the margin stood in",
}

Bools = NDArray[np.bool_]


def warnings_of(
    scores: Scores,
    attacks: Sequence[AttackResult],
    *,
    cascade: bool,
    probe: Probe | None = None,
    blackbox: Blackbox | None = None,
    overfitted: int | None = None,
) -> tuple[NamedWarning, ...]:
    """Named warnings, each with the numbers that raised it; none for an evaluation without such signs.

    `attacks` are in the order they ran. In a `cascade` each met only what those before it left standing: their
    accuracies do not compare, but what each breaks says what all before it missed. `blackbox` is the black-box set that
    was among them, `overfitted` the step from which training overfitted to single steps, if it did.
    """
    n = len(scores.samples)
    found = [*_unstable(scores, n), *_zero_gradients(scores, n), *_dlr_falls_back(scores.classes, attacks)]
    if cascade:
        found += [*_gradient_free_after(attacks, n), *_plain_after_autoattack(scores, attacks, n)]
    else:
        found += _fewer_steps_break_more(scores, attacks)
        found += [*_gradient_free_beside(scores, attacks, n), *_plain_beside_autoattack(scores, attacks)]
        found += _implementations_disagree(scores, attacks)
    if probe is not None:
        found += _probed(probe, attacks, n)
    elif scores.look is not None:
        found += _looked_at(scores.look)
    found += _no_plateau(attacks)
    if blackbox is not None:
        found += _weak_surrogates(blackbox)
    if overfitted is not None:
        message = f"from training step {overfitted} on, the model withstands one step better than many"
        found.append(_warning("catastrophic-overfitting", message))
    return tuple(found)


def version_warnings(others: Sequence[str]) -> tuple[NamedWarning, ...]:
    """The warning that blocks of images were scored under `others`, versions or processors, than the rest."""
    return (_warning("mixed-versions", f"scored in part under {'; and under '.join(others)}"),) if others else ()


def entry_warnings(
    notes: Sequence[tuple[str, str]], drawn: Randomised | None, n: int, clean: float, robust: Mapping[str, float]
) -> tuple[NamedWarning, ...]:
    """Warnings of what was found when a model was looked at, and of its accuracies if it answers at random."""
    found = [_warning(name, message) for name, message in notes]
    if drawn is not None:
        draws = f"over {drawn.draws} draws an image" if drawn.draws else "over the members, by their weights"
        right, attacked = (f"{n * v:.1f} of {n} images ({100 * v:.4g} %" for v in (clean, robust["accuracy"]))
        interval = f"95 %: {100 * robust['ci_low']:.3g} to {100 * robust['ci_high']:.3g}"
        message = f"expected to be right {draws}: clean {right}), attacked {attacked}; {interval})"
        found.append(_warning("randomised", message))
    return tuple(found)


def _unstable(scores: Scores, n: int) -> Iterator[NamedWarning]:
    if scores.unstable and scores.shares is None:  # "randomised" says it of others
        message = f"{scores.unstable} of {n} clean predictions changed when the model was asked again"
        yield _warning("unstable-predictions", message)


def _zero_gradients(scores: Scores, n: int) -> Iterator[NamedWarning]:
    for stages in scores.stages.values():
        worst = max(stages, key=lambda stage: stage.zero_gradients, default=None)
        if worst is not None and worst.zero_gradients > SHARE * n:
            message = f"{worst.name}: the gradient is exactly zero at the start of {worst.zero_gradients} of {n} images"
            yield _warning("zero-gradients", message)


def _dlr_falls_back(classes: int, attacks: Sequence[AttackResult]) -> Iterator[NamedWarning]:
    for attack in attacks:
        needed = conduct_of(family_of(attack.name)[0]).classes
        if classes < needed:
            message = f"{attack.name}: its loss needs {needed} classes, the model has {classes}: the margin stood in"
            yield _warning("dlr-falls-back", message)


def _no_plateau(attacks: Sequence[AttackResult]) -> Iterator[NamedWarning]:
    """Chains that end once stages in a row, as many as their patience, break nothing, and that never did."""
    for attack in attacks:
        patience, ran = attack.settings.get("patience"), attack.stages or ()
        if not patience or not attack.robust or len(ran) < len(attack.settings["stages"]):
            continue
        if broken := sum(stage.broken for stage in ran[-patience:]):
            last = f"the last {patience} stages" if patience > 1 else "its last stage"
            message = f"{attack.name}: {last} still broke {broken} images: more steps may break more"
            yield _warning("no-plateau", message)


def _weak_surrogates(blackbox: Blackbox) -> Iterator[NamedWarning]:
    """Images that were made against poor networks: what withstands them may fall to those of good ones."""
    weak = [f"{s.backbone} {100 * s.accuracy:.4g} %" for s in blackbox.surrogates if s.accuracy < SURROGATE]
    if weak and blackbox.n:
        message = f"clean accuracy of the black-box set's surrogates: {', '.join(weak)}"
        yield _warning("weak-surrogates", message)


def _fewer_steps_break_more(scores: Scores, attacks: Sequence[AttackResult]) -> Iterator[NamedWarning]:
    """One step against several, and attacks of one family of which one has at least twice the other's steps."""
    known = [(*_steps(a.name), a.name) for a in attacks if a.n]
    for (family, k, few), (other, m, many) in itertools.permutations(known, 2):
        single = k == 1 and (conduct_of(family).standard or conduct_of(family).single_step)
        following = conduct_of(other).standard
        if single and following and (m >= MANY_STEPS or (m > 1 and family == other)):
            name = "single-step-beats-multi-step"
        elif family == other and m >= 2 * k > 0:
            name = "more-steps-weaker"
        else:
            continue
        yield from _leaves_more(name, many, few, _standing(scores, [many]), _standing(scores, [few]))


def _gradient_free_beside(scores: Scores, attacks: Sequence[AttackResult], n: int) -> Iterator[NamedWarning]:
    """Attacks that each met every image: what those without gradients break and no other does."""
    white_box = [a.name for a in attacks if is_white_box(a.name, a.settings)]
    if not white_box:
        return
    missed = _standing(scores, white_box)
    for attack in attacks:
        if name := gradient_free(attack.name, attack.settings):
            yield from _breaks_more(name, attack.name, int((missed & ~_standing(scores, [attack.name])).sum()), n)


def _gradient_free_after(attacks: Sequence[AttackResult], n: int) -> Iterator[NamedWarning]:
    """In a cascade credit says what was missed, but only by the attacks before."""
    for before, attack in enumerate(attacks):
        name = gradient_free(attack.name, attack.settings)
        if name and any(is_white_box(a.name, a.settings) for a in attacks[:before]):
            yield from _breaks_more(name, attack.name, attack.credit, n)


def _plain_beside_autoattack(scores: Scores, attacks: Sequence[AttackResult]) -> Iterator[NamedWarning]:
    """A plain attack that alone breaks more than AutoAttack's together, one of which ascends the same for as long."""
    known = [(*_steps(a.name), a.name) for a in attacks if a.n]
    auto = [name for family, _, name in known if conduct_of(family).autoattack]
    for family, steps, name in known:
        if conduct_of(family).plain and any(_stands_for(f, family) and k >= steps for f, k, _ in known):
            standing = (_standing(scores, auto), _standing(scores, [name]))
            yield from _leaves_more("autoattack-weaker-than-pgd", "+".join(auto), name, *standing)


def _plain_after_autoattack(scores: Scores, attacks: Sequence[AttackResult], n: int) -> Iterator[NamedWarning]:
    """In a cascade: what a plain attack breaks after one of AutoAttack's that ascends the same for as long."""
    longest: dict[str, int] = {}
    for attack in attacks:
        family, steps = _steps(attack.name)
        conduct = conduct_of(family)
        limit = max((longest.get(loss, 0) for loss in conduct.ascends if conduct.plain), default=0)
        broken = _broken_within(attack, scores.stages.get(attack.name, ()), limit)
        if broken > SHARE * n:
            message = (
                f"{attack.name} breaks {broken} of {n} images in no more than {limit} steps that AutoAttack's missed"
            )
            yield _warning("autoattack-weaker-than-pgd", message)
        for loss in conduct.ascends if conduct.autoattack else ():
            longest[loss] = max(longest.get(loss, 0), steps)


def _implementations_disagree(scores: Scores, attacks: Sequence[AttackResult]) -> Iterator[NamedWarning]:
    """Who runs an attack and finds less than another who does: at LEVEL over all pairs (Bonferroni)."""
    split = [a.name.partition("@") for a in attacks if a.n]
    known = [(attack, who) for attack, _, who in split if who in registry.IMPLEMENTATIONS]
    pairs = [(attack, (a, b)) for (attack, a), (other, b) in itertools.combinations(known, 2) if attack == other]
    for attack, both in pairs:
        standing = {who: _standing(scores, [f"{attack}@{who}"]) for who in both}
        less, more = sorted(both, key=lambda who: -standing[who].sum())
        test = mcnemar(standing[less], standing[more])
        if test.p_value < LEVEL / len(pairs):
            message = (
                f"{attack}: {less} leaves {standing[less].sum()} of {test.n} images standing, {more} "
                f"{standing[more].sum()} (p = {test.p_value:.2g}): {less} found less"
            )
            yield _warning("implementations-disagree", message)


def _looked_at(seen: Look) -> Iterator[NamedWarning]:
    """Images that stand within reach of grey, where no probe says as much."""
    met, standing = sum(seen.met), sum(seen.standing)
    if standing > SHARE * met:
        left = f"{ATTACK} leaves {standing} of {met} images standing"
        message = f"{left} at eps {seen.eps:g}, where every image can be made grey"
        yield _warning("large-eps-not-zero", message)


def _probed(probe: Probe, attacks: Sequence[AttackResult], n: int) -> Iterator[NamedWarning]:
    if probe.large.left > SHARE * len(probe.large.standing):
        message = f"{_left(probe.large)} at {probe.norm} eps {probe.eps:g}, where every image can be made grey"
        yield _warning("large-eps-not-zero", message)
    for name, many, few in (
        ("single-step-beats-multi-step", probe.plain, probe.single_step),
        ("autoattack-weaker-than-pgd", probe.autoattack, probe.plain),
    ):
        if many.standing:
            yield from _leaves_more(name, many.attack, few.attack, np.array(many.standing), np.array(few.standing))
    for attack in attacks:
        warning, tried = gradient_free(attack.name, attack.settings), probe.blind.get(attack.name)
        if warning and tried and tried.left * attack.credit > SHARE * n * len(tried.standing):
            message = f"{attack.name} breaks {attack.credit} of {n} images, of which {_left(tried)}"
            yield _warning(warning, message)


def _left(tried: Tried) -> str:
    return f"{tried.attack} leaves {tried.left} of {len(tried.standing)} images standing"


def _leaves_more(name: str, many: str, few: str, standing: Bools, standing_few: Bools) -> Iterator[NamedWarning]:
    """Warning where `many` leaves more images standing than `few`, beyond chance."""
    test = mcnemar(standing, standing_few)
    if test.only_a > test.only_b and test.p_value < LEVEL:
        message = f"{many} leaves {standing.sum()} of {test.n} images standing, {few} only {standing_few.sum()}"
        yield _warning(name, f"{message} (p = {test.p_value:.2g})")


def _breaks_more(name: str, attack: str, count: int, n: int) -> Iterator[NamedWarning]:
    """Warning where an attack without gradients breaks more than chance of what the others missed."""
    if count > SHARE * n:
        what = "the black-box images break" if attack == "blackbox" else f"{attack} breaks"
        yield _warning(name, f"{what} {count} of {n} images that the white-box attacks missed")


def _steps(name: str) -> tuple[str, int]:
    """Family and steps of an attack; 0 where it has no number of them."""
    family, steps = family_of(name)
    return family, 1 if conduct_of(family).single_step else steps or 0


def _stands_for(auto: str, plain: str) -> bool:
    """Whether one of AutoAttack's ascends all that the plain attack does."""
    conduct = conduct_of(auto)
    return conduct.autoattack and set(conduct_of(plain).ascends) <= set(conduct.ascends)


def _warning(name: str, message: str) -> NamedWarning:
    assert name in WARNINGS  # docs/masking.md explains no other
    return NamedWarning(name=name, message=message)


def _standing(scores: Scores, names: Iterable[str]) -> Bools:
    """Images that all these attacks left standing; one that an attack does not cover stands."""
    standing = np.ones(len(scores.samples), dtype=bool)
    for name in names:
        standing &= scores.samples[name].fillna(True).to_numpy(dtype=bool)
    return standing


def _broken_within(attack: AttackResult, stages: Sequence[StageScore], steps: int) -> int:
    """Images that the attack broke, in its stages of no more than so many steps."""
    made = attack.settings.get("stages") or (attack.settings,)
    # A chain may have ended before its last stage.
    return sum(stage.broken for stage, its in zip(stages, made, strict=False) if its.get("steps", np.inf) <= steps)
