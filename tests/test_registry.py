"""The registry: every name leads somewhere, and a wrong one meets the nearest right one."""

import subprocess
import sys

import pytest

from ensemble_bench import registry
from ensemble_bench.errors import UnknownNameError


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in registry.KINDS for name in registry.names(kind)])
def test_every_name_resolves_to_what_it_names(kind: str, name: str) -> None:
    found = registry.resolve(kind, name)
    assert found is not None
    if kind in ("recipe", "preset", "suite"):
        assert found.name == name


def test_every_preset_has_a_card() -> None:
    from ensemble_bench.training.presets import PRESETS

    assert set(PRESETS) == set(registry.PRESETS)


LOSSES = {
    "cross_entropy": "cross-entropy",
    "margin": "margin",
    "dlr": "margin",
    "margin_targeted": "targeted margin",
    "dlr_targeted": "targeted margin",
}


@pytest.mark.parametrize("family", [family for family, card in registry.ATTACKS.items() if card.takes_steps])
def test_the_card_of_an_attack_agrees_with_the_attack(family: str) -> None:
    from ensemble_bench import attacks
    from ensemble_bench.attacks.engine import Chain, GradientAttack

    card, attack = registry.ATTACKS[family], attacks.get(f"{family}20" if "plateau" not in family else f"{family}200")
    assert card.description
    assert "\n" not in card.description
    assert attack.gradient_free is False  # on our own attacks the card alone says so
    stages = attack.stages if isinstance(attack, Chain) else (attack,)
    climbed = {LOSSES[stage.loss.__name__] for stage in stages if isinstance(stage, GradientAttack)}
    if card.ascends:
        # A targeted attack at the strongest wrong class climbs the plain margin too.
        assert climbed <= set(card.ascends) <= climbed | {"margin"}
    targeted = [stage for stage in stages if isinstance(stage, GradientAttack) and stage.target is not None]
    assert bool(targeted) == ("targeted margin" in card.ascends) or not card.ascends


def test_a_card_of_an_attack_without_gradients_names_its_warning() -> None:
    free = {family for family, card in registry.ATTACKS.items() if card.warning}
    assert free == {"square", "blackbox"}
    assert all(card.warning.endswith("breaks-more") for card in registry.ATTACKS.values() if card.warning)


def test_recipes_name_rivals_that_exist_and_have_a_look_of_their_own() -> None:
    looks = [recipe.look for recipe in registry.RECIPES.values()]
    assert None not in looks
    assert len(set(looks)) == len(looks)
    for name, recipe in registry.RECIPES.items():
        assert name == recipe.name
        assert set(recipe.rivals) <= set(registry.RECIPES) - {name}


def test_suites_that_rank_a_model_have_a_rank_of_their_own() -> None:
    ranks = [suite.rank for suite in registry.SUITES.values() if suite.rank]
    assert len(set(ranks)) == len(ranks)
    assert max(registry.SUITES.values(), key=lambda suite: suite.rank).name == "strongest"


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


@pytest.mark.parametrize("name", ["pgd", "pgd0", "blackbox5", "20", "", "pgd20x", "PGD20", "pgd-", "pgd2.5", "fab20"])
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


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from ensemble_bench import registry; registry.check('suite', 'paper');"
        "registry.split_steps('pgd20'); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_name_among_none_says_so() -> None:
    assert str(UnknownNameError("token", "bob", [])) == "unknown token 'bob': there is none"
