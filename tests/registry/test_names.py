"""The registry: every name leads somewhere, and a wrong one meets the nearest right one."""

import subprocess
import sys

import pytest

from ensemble_bench import registry
from ensemble_bench.errors import InvalidValueError, UnknownNameError
from ensemble_bench.registry import SUITES, suite_of, without_blackbox


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in registry.KINDS for name in registry.names(kind)])
def test_every_name_resolves_to_what_it_names(kind: str, name: str) -> None:
    found = registry.resolve(kind, name)
    assert found is not None
    if kind in ("recipe", "preset", "suite"):
        assert found.name == name


def test_every_preset_has_a_card() -> None:
    from ensemble_bench.training.presets import PRESETS

    assert set(PRESETS) == set(registry.PRESETS)


def test_every_attack_of_a_suite_exists() -> None:
    for suite in registry.names("suite"):
        for attack in registry.resolve("suite", suite).attacks:
            registry.split_steps(registry.split_implementation(attack)[0])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pgd20", ("pgd", 20)),
        ("apgd-dlr5", ("apgd-dlr", 5)),
        ("ifgsm500", ("ifgsm", 500)),
        ("blackbox", ("blackbox", None)),
    ],
)
def test_split_steps(name: str, expected: tuple[str, int | None]) -> None:
    assert registry.split_steps(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        "pgd",
        "pgd0",
        "pgd020",
        "pgd-020",
        "pgd２0",
        "pgd٢0",
        "pgd²",
        "blackbox5",
        "20",
        "",
        "pgd20x",
        "PGD20",
        "pgd-",
        "pgd2.5",
        "fab20",
    ],
)
def test_attack_names_that_are_none(name: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown attack"):
        registry.split_steps(name)


@pytest.mark.parametrize(
    ("kind", "name", "near"),
    [
        ("recipe", "ensembel2adv", "ensemble2adv"),
        ("suite", "papr", "paper"),
        ("preset", "tinny", "tiny"),
        ("data set", "cifar-10", "cifar10"),
        ("backbone", "vgg16", "vgg16_bn"),
    ],
)
def test_wrong_names_meet_the_nearest(kind: str, name: str, near: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown {kind} '{name}': did you mean {near}"):
        registry.check(kind, name)


def test_wrong_attack_meets_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean ifgsm20"):
        registry.split_steps("igfsm20")


@pytest.mark.parametrize(
    ("suite", "expected"),
    [
        ("strongest", "strongest-blackbox"),
        ("strongest-blackbox", "strongest-blackbox"),
        ("quick", "quick"),
        ("quick+paper+blackbox+art:SquareAttack(max_iter=2)", "quick+paper-blackbox+art:SquareAttack(max_iter=2)"),
    ],
)
def test_a_suite_without_its_black_box_attack(suite: str, expected: str) -> None:
    assert without_blackbox(suite) == expected
    whole, left = suite_of(suite), suite_of(expected)
    assert left.name == expected
    assert left.attacks == tuple(name for name in whole.attacks if name != "blackbox")
    assert (left.cascade, left.probe, left.weighted) == (whole.cascade, whole.probe, whole.weighted)
    if expected not in SUITES:
        assert left.strength == 0  # its worst case is no figure of the whole suite


@pytest.mark.parametrize(
    ("suite", "attacks"),
    [
        ("autoattack", "apgd100 apgd-dlr100"),
        ("autoattack+recapture+probe", "apgd100 apgd-dlr100"),
        ("autoattack+pgd20", "apgd100 apgd-dlr100 pgd20"),
        ("paper500+autoattack", "ifgsm500 pgd500 apgd100 apgd-dlr100"),
        ("quick+pgd20", ""),
    ],
)
def test_a_sum_keeps_what_its_parts_have_for_models_that_answer_at_random(suite: str, attacks: str) -> None:
    assert suite_of(suite).randomised == tuple(attacks.split())


def test_nothing_can_be_left_out_of_what_has_no_black_box_attack() -> None:
    with pytest.raises(InvalidValueError, match="quick has no black-box attack to leave out"):
        suite_of("quick-blackbox")
    with pytest.raises(InvalidValueError, match="nothing is left"):
        without_blackbox("blackbox")
    with pytest.raises(UnknownNameError, match="papr-blackbox"):
        suite_of("papr-blackbox")


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from ensemble_bench import registry; registry.check('suite', 'paper');"
        "registry.split_steps('pgd20'); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_name_among_none_says_so() -> None:
    assert str(UnknownNameError("token", "bob", [])) == "unknown token 'bob': there is none"
