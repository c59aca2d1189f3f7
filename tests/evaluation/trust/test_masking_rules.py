"""The thresholds of masking warnings, on planted outcomes of attacks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

import ensemble_bench as eb
from ensemble_bench import registry
from ensemble_bench.evaluation.scoring import Scores
from ensemble_bench.evaluation.stage import StageScore
from ensemble_bench.evaluation.trust.masking import gradient_free, is_white_box, warnings_of
from ensemble_bench.evaluation.trust.probe import Probe, Tried
from ensemble_bench.records import AttackResult, Blackbox, NamedWarning, StageResult, Surrogate


def result(name: str, robust: int, n: int = 200, credit: int = 0, **settings: Any) -> AttackResult:
    return AttackResult(
        name=name,
        settings=settings,
        n=n,
        robust=robust,
        accuracy=robust / n if n else None,
        ci_low=0.0,
        ci_high=1.0,
        credit=credit,
        seconds=0.0,
    )


def found_in(
    attacks: Sequence[AttackResult],
    *,
    cascade: bool = False,
    probe: Probe | None = None,
    blackbox: Blackbox | None = None,
    overfitted: int | None = None,
    **scores: Any,
) -> list[NamedWarning]:
    """Warnings of 200 images, each attack leaving the first ones standing."""
    samples = pd.DataFrame({"id": range(200), **{a.name: [i < a.robust for i in range(200)] for a in attacks}})
    own = Scores(samples=samples, **{"classes": 10, **scores})
    given: dict[str, Any] = {"probe": probe, "blackbox": blackbox, "overfitted": overfitted}
    return list(warnings_of(own, attacks, cascade=cascade, **given))


def names(found: Sequence[NamedWarning]) -> list[str]:
    return [warning.name for warning in found]


@pytest.mark.parametrize(
    ("few", "many", "warned"),
    # Of 7 images where only one stands p is 2/2⁷ = 0.016, of 8 it is 0.008.
    [(100, 100, False), (100, 107, False), (100, 108, True), (100, 40, False), (0, 200, True)],
)
@pytest.mark.parametrize(
    ("short", "long", "warning"),
    [
        ("pgd5", "pgd20", "more-steps-weaker"),
        ("ifgsm1", "ifgsm2", "single-step-beats-multi-step"),
        ("ifgsm1", "pgd20", "single-step-beats-multi-step"),
        ("torchattacks:FGSM", "apgd20", "single-step-beats-multi-step"),
        ("margin20", "apgd-t20", "autoattack-weaker-than-pgd"),
        ("pgd20", "apgd100", "autoattack-weaker-than-pgd"),
    ],
)
def test_who_should_be_stronger_leaves_more_standing(
    few: int, many: int, warned: bool, short: str, long: str, warning: str
) -> None:
    found = found_in([result(long, many), result(short, few)])  # in any order
    assert names(found) == [warning] * warned
    if warned:
        assert found[0].message.startswith(f"{long} leaves {many} of 200 images standing, {short} only {few} (p = ")
        assert float(found[0].message.rpartition("= ")[2][:-1]) == pytest.approx(2.0 ** (1 - many + few), rel=0.01)


@pytest.mark.parametrize(
    ("weak", "strong"),
    [
        ("ifgsm7", "ifgsm5"),  # not twice the steps
        ("pgd5", "ifgsm1"),  # Adam's five steps do not cross the ball
        ("bypass100", "ifgsm1"),  # attacks something else than the model's output
        ("apgd100", "margin20"),  # cross-entropy against margin
        ("apgd-dlr20", "margin100"),  # fewer steps
        ("apgd-dlr20", "margin-t20"),  # one class against nine
        ("apgd100", "torchattacks:PGD(steps=10)"),
        ("smaller-eps", "pgd20"),
        ("blackbox", "pgd20"),
    ],
)
def test_attacks_that_do_not_compare_are_not_compared(weak: str, strong: str) -> None:
    assert found_in([result(weak, 190), result(strong, 50)]) == []


def test_in_a_cascade_later_attacks_meet_fewer_images() -> None:
    attacks = [result("apgd100", 150), result("apgd20", 100), result("ifgsm1", 50)]
    every = {"single-step-beats-multi-step", "more-steps-weaker", "autoattack-weaker-than-pgd"}
    assert set(names(found_in(attacks))) == every
    assert found_in(attacks, cascade=True) == []


def test_autoattack_counts_together() -> None:
    """What one of AutoAttack's misses another may break: here the targeted one alone is as strong as the margin."""
    assert found_in([result("apgd-dlr100", 150), result("apgd-t100", 100), result("margin20", 100)]) == []


@pytest.mark.parametrize(("count", "warned"), [(0, False), (2, False), (3, True)])
def test_a_share_of_one_percent_is_chance(count: int, warned: bool) -> None:
    stage = StageScore(name="pgd5", attacked=150, broken=50, zero_gradients=count)
    assert names(found_in([], stages={"pgd5": (stage,)})) == ["zero-gradients"] * warned
    for name, warning in (("blackbox", "blackbox-breaks-more"), ("square100", "square-breaks-more")):
        beside = found_in([result(name, 100 - count), result("pgd5", 100)])  # in any order
        assert names(beside) == [warning] * warned
        after = [result("pgd5", 100), result(name, 100 - count, credit=count)]
        assert names(found_in(after, cascade=True)) == [warning] * warned
        first = [result(name, 100, credit=100), result("pgd5", 50, credit=50)]
        assert found_in(first, cascade=True) == []
    if warned:
        assert beside[0].message == "square100 breaks 3 of 200 images that the white-box attacks missed"


def test_without_a_white_box_attack_nothing_was_missed() -> None:
    alone = [result("smaller-eps", 150, credit=50), result("blackbox", 100, credit=50), result("square100", 50)]
    assert found_in(alone) == []
    assert found_in(alone, cascade=True) == []


def test_a_toolkits_attack_is_known_by_its_class() -> None:
    assert gradient_free("torchattacks:Pixle(x_dimensions=[2, 5])", {}) == "gradient-free-breaks-more"
    assert gradient_free("art:SquareAttack", {}) == gradient_free("square5000", {}) == "square-breaks-more"
    assert is_white_box("art:ProjectedGradientDescent(max_iter=5)", {})
    assert is_white_box("mora100", {})
    assert not any(is_white_box(name, {}) for name in ("smaller-eps", "blackbox", "square5000", "art:HopSkipJump"))


def test_an_attack_of_another_package_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.ATTACKS, "sky", registry.AttackCard(home="nowhere:sky"))  # type: ignore[index]
    assert is_white_box("sky20", {})
    assert not is_white_box("sky20", {"gradient_free": True})
    assert gradient_free("sky20", {"gradient_free": True}) == "gradient-free-breaks-more"


@pytest.mark.parametrize("name", [n for n, conduct in registry.TOOLKIT_ATTACKS.items() if conduct.warning])
def test_gradient_free_attacks_of_toolkits_exist(name: str) -> None:
    eb.attacks.get(name)


@pytest.mark.parametrize(("within", "beyond", "warned"), [(2, 100, False), (3, 0, True)])
def test_plain_attacks_after_autoattack_count_up_to_its_steps(within: int, beyond: int, warned: bool) -> None:
    doubled = [StageScore(name="", attacked=0, broken=broken) for broken in (within, beyond)]
    made = {"stages": [{"steps": 80}, {"steps": 160}, {"steps": 320}]}
    attacks = [
        result("pgd20", 150, credit=50, steps=20),
        result("apgd-dlr100", 150, steps=100),
        result("margin-doubled1600", 100, credit=within + beyond, **made),
    ]
    stages = {a.name: (StageScore(name=a.name, attacked=0, broken=a.credit),) for a in attacks[:2]}
    stages["margin-doubled1600"] = tuple(doubled)
    found = found_in(attacks, cascade=True, stages=stages)
    assert names(found) == ["autoattack-weaker-than-pgd"] * warned
    if warned:
        assert found[0].message.startswith("margin-doubled1600 breaks 3 of 200 images in no more than 100 steps")


@pytest.mark.parametrize(
    ("attack", "classes", "warned"),
    [("apgd-t100", 4, False), ("apgd-t100", 3, True), ("apgd-dlr20", 3, False), ("apgd-dlr20", 2, True)],
)
def test_the_ratio_falls_back_to_the_margin(attack: str, classes: int, warned: bool) -> None:
    found = found_in([result(attack, 100)], classes=classes)
    assert names(found) == ["dlr-falls-back"] * warned
    if warned:
        needed = classes + 1
        assert found[0].message == (
            f"{attack}: its loss needs {needed} classes, the model has {classes}: the margin stood in"
        )


@pytest.mark.parametrize(
    ("broken", "warned"),
    [
        ((9, 3, 0, 0), False),  # a plateau, found early
        ((9, 3, 1, 0, 0), False),  # found with the last doubling
        ((9, 3, 0, 1, 0), True),
        ((9, 3, 0, 0, 2), True),
    ],
)
def test_doublings_that_end_without_a_plateau(broken: tuple[int, ...], warned: bool) -> None:
    left, stages = 100, list[StageResult]()
    for steps, fell in zip((100, 200, 400, 800, 1600), broken, strict=False):
        stages.append(StageResult(name=f"{steps}", attacked=left, broken=fell, seconds=0.0, passes=0))
        left -= fell
    made = {"patience": 2, "stages": [{"steps": steps} for steps in (100, 200, 400, 800, 1600)]}
    plateau = replace(result("margin-plateau1600", left, credit=sum(broken), **made), stages=tuple(stages))
    found = found_in([plateau], cascade=True)
    assert names(found) == ["no-plateau"] * warned
    if warned:
        count = sum(broken[-2:])
        assert f"the last 2 stages still broke {count} images: more steps may break more" in found[0].message


def test_only_a_ratio_needs_several_classes() -> None:
    results = [result("pgd20", 100), result("blackbox", 100), result("torchattacks:PGD", 100)]
    assert found_in(results, classes=1) == []


def test_attacks_without_images_raise_no_warning() -> None:
    none = [result(name, 0, n=0) for name in ("pgd5", "pgd20", "blackbox", "apgd100", "ifgsm1")]
    assert found_in(none) == []
    nothing = probed({}, n=0, blind={"blackbox": 0}, tried=0)
    assert found_in([result("blackbox", 0, n=0)], cascade=True, probe=nothing) == []


def probed(left: Mapping[str, int], *, n: int = 100, blind: Mapping[str, int] | None = None, tried: int = 50) -> Probe:
    """A probe of `n` images, of which each test leaves `left` standing (default 40, and none at the large eps)."""

    def tried_on(attack: str, left: int, n: int) -> Tried:
        return Tried(attack=attack, standing=tuple(i < left for i in range(n)))

    return Probe(
        plain=tried_on("margin20", left.get("plain", 40), n),
        autoattack=tried_on("apgd20+apgd-dlr20", left.get("autoattack", 40), n),
        single_step=tried_on("ifgsm1", left.get("single_step", 40), n),
        large=tried_on("margin50", left.get("large", 0), n),
        norm="linf",
        eps=0.5,
        blind={name: tried_on("margin20", missed, tried) for name, missed in (blind or {}).items()},
        passes=0,
    )


@pytest.mark.parametrize(
    ("left", "message"),
    [
        ({}, None),
        ({"large": 1}, None),
        (
            {"large": 2},
            "large-eps-not-zero: margin50 leaves 2 of 100 images standing at linf eps 0.5, where every image can be "
            "made grey",
        ),
        ({"single_step": 33}, None),
        (
            {"single_step": 32},
            "single-step-beats-multi-step: margin20 leaves 40 of 100 images standing, ifgsm1 only 32 (p = 0.0078)",
        ),
        ({"autoattack": 47}, None),
        (
            {"autoattack": 48},
            "autoattack-weaker-than-pgd: apgd20+apgd-dlr20 leaves 48 of 100 images standing, margin20 only 40 "
            "(p = 0.0078)",
        ),
    ],
)
def test_what_the_probe_found(left: dict[str, int], message: str | None) -> None:
    found = [f"{w.name}: {w.message}" for w in found_in([], cascade=True, probe=probed(left))]
    assert found == ([] if message is None else [message])


@pytest.mark.parametrize(("missed", "warned"), [(0, False), (1, False), (2, True)])
def test_black_box_images_that_gradients_miss_count_by_their_share(missed: int, warned: bool) -> None:
    """Of the 100 broken images 50 were tried: one missed stands for two of 200, which is chance, two for four."""
    first = [result("blackbox", 50, n=150, credit=100), result("pgd20", 40, credit=10)]
    found = found_in(first, cascade=True, probe=probed({}, blind={"blackbox": missed}))
    assert names(found) == ["blackbox-breaks-more"] * warned
    if warned:
        assert found[0].message == (
            "blackbox breaks 100 of 200 images, of which margin20 leaves 2 of 50 images standing"
        )


def test_a_training_that_overfitted_is_named_with_its_step() -> None:
    assert found_in([], cascade=True, overfitted=None) == []
    (warning,) = found_in([], cascade=True, overfitted=300)
    assert warning.name == "catastrophic-overfitting"
    assert "from training step 300 on" in warning.message


@pytest.mark.parametrize("cascade", [False, True])
def test_surrogates_that_err_on_clean_images_are_named_with_their_accuracy(cascade: bool) -> None:
    def warned(*accuracies: float, n: int = 30) -> list[str]:
        surrogates = [Surrogate(backbone=f"net{i}", accuracy=value) for i, value in enumerate(accuracies)]
        blackbox = Blackbox(hash="sha256:0", keep_rate=0.5, surrogates=tuple(surrogates), n=n)
        return [f"{w.name}: {w.message}" for w in found_in([], cascade=cascade, blackbox=blackbox)]

    assert warned(0.9, 0.96) == []
    assert warned(0.8995, 0.96) == ["weak-surrogates: clean accuracy of the black-box set's surrogates: net0 89.95 %"]
    assert warned(0.706, 0.728)[0].endswith("net0 70.6 %, net1 72.8 %")
    assert warned(0.5, n=0) == []  # none of its images was used
