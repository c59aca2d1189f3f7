"""Signs that a number is too good: gradients that are masked, attacks that contradict each other."""

import itertools
from collections.abc import Mapping, Sequence

from ensemble_bench import registry
from ensemble_bench.errors import UnknownNameError
from ensemble_bench.evaluation.scoring import Scores
from ensemble_bench.evaluation.statistics import mcnemar
from ensemble_bench.records import AttackResult, NamedWarning

# Athalye et al. 2018a list the behaviours; a share of the images below this is taken for chance.
SHARE = 0.01
# Significance of a difference between two attacks on the same images.
LEVEL = 0.01


def warnings_of(scores: Scores, attacks: Sequence[AttackResult]) -> tuple[NamedWarning, ...]:
    """Named warnings, each with the numbers that raised it; none for an evaluation without such signs."""
    n = len(scores.samples)
    found = [
        _unstable(scores.unstable, n),
        *(_zero_gradients(name, count, n) for name, count in scores.zero_gradients.items()),
        *_more_steps_weaker(scores, attacks),
        _blackbox_breaks_more({a.name: a for a in attacks}, n),
    ]
    return tuple(w for w in found if w is not None)


def _unstable(count: int, n: int) -> NamedWarning | None:
    if count == 0:
        return None
    message = f"{count} of {n} clean predictions changed when the model was asked again"
    return NamedWarning(name="unstable-predictions", message=message)


def _zero_gradients(attack: str, count: int, n: int) -> NamedWarning | None:
    if count <= SHARE * n:
        return None
    message = f"{attack}: the gradient is exactly zero at the start of {count} of {n} images"
    return NamedWarning(name="zero-gradients", message=message)


def _more_steps_weaker(scores: Scores, attacks: Sequence[AttackResult]) -> list[NamedWarning]:
    """Attacks with at least twice the steps of a like one that leave more images standing, beyond chance."""
    found = []
    families: dict[str, list[tuple[int, AttackResult]]] = {}
    for attack in attacks:
        try:
            family, steps = registry.split_steps(attack.name)
        except UnknownNameError:
            continue
        if steps is not None and attack.n:
            families.setdefault(family, []).append((steps, attack))
    for members in families.values():
        members.sort(key=lambda m: m[0])
        for (k, few), (m, many) in itertools.combinations(members, 2):
            if m < 2 * k or many.robust <= few.robust:
                continue
            test = mcnemar(*(scores.samples[a.name].to_numpy(dtype=bool) for a in (many, few)))
            if test.p_value < LEVEL:
                message = f"{many.name} leaves {many.robust} of {many.n} images standing, {few.name} only {few.robust}"
                found.append(NamedWarning(name="more-steps-weaker", message=f"{message} (p = {test.p_value:.2g})"))
    return found


def _blackbox_breaks_more(attacks: Mapping[str, AttackResult], n: int) -> NamedWarning | None:
    blackbox = attacks.get("blackbox")
    if blackbox is None or blackbox.credit <= SHARE * n:
        return None
    message = f"the black-box images break {blackbox.credit} of {n} images that every white-box attack missed"
    return NamedWarning(name="blackbox-breaks-more", message=message)
