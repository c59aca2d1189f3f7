"""Cards: what they say of an attack is what its code does, and recipes and suites name what exists."""

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import Wrapped, blackbox_set, images, trained
from torch import Tensor, nn

from ensemble_bench import ThreatModel, attacks, losses, registry
from ensemble_bench.attacks.engine import Chain, GradientAttack
from ensemble_bench.evaluation.trust.masking import WARNINGS
from ensemble_bench.models.entry import entered_once
from ensemble_bench.reports.groups import place

ROOT = Path(__file__).resolve().parents[2]
# What the losses of attacks are called on cards: a ratio is the margin, scaled.
LOSSES = {
    "cross_entropy": "cross-entropy",
    "margin": "margin",
    "dlr": "margin",
    "probability_margin": "margin",
    "margin_targeted": "targeted margin",
    "dlr_targeted": "targeted margin",
}
each_attack = pytest.mark.parametrize("family", registry.ATTACKS)


def made(family: str) -> attacks.Attack:
    steps = 200 if family == "margin-plateau" else 20 if family.endswith("doubled") else 2
    takes_steps = registry.ATTACKS[family].takes_steps
    return attacks.get(f"{family}{steps}") if takes_steps else attacks.get(family, path=blackbox_set())


def stages_of(attack: attacks.Attack) -> list[GradientAttack]:
    stages = attack.stages if isinstance(attack, Chain) else (attack,)
    return [stage for stage in stages if isinstance(stage, GradientAttack)]


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, table in registry.KINDS.items() for name in table])
def test_every_name_is_described_in_one_line(kind: str, name: str) -> None:
    description = registry.KINDS[kind][name].description or registry.resolve(kind, name).description
    assert description.strip() == description != ""
    assert "\n" not in description
    assert len(description) <= 110


@each_attack
def test_an_attack_takes_steps_as_its_card_says(family: str) -> None:
    make = registry.resolve("attack", family)
    assert ("steps" in inspect.signature(make).parameters) == registry.ATTACKS[family].takes_steps


@each_attack
def test_an_attack_ascends_what_its_card_says(family: str) -> None:
    card, stages = registry.ATTACKS[family], stages_of(made(family))
    if card.ascends:
        climbed = {LOSSES[stage.loss.__name__] for stage in stages}
        # Auto-PGD on the ratio to the strongest wrong class climbs the plain margin too.
        assert climbed <= set(card.ascends) <= climbed | {"margin"}
    assert not card.plain or len(card.ascends) == 1
    assert not card.plain or not card.autoattack


class Watched(torch.autograd.Function):
    """The identity, which counts the gradients that pass through it."""

    gradients = 0

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        return logits.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        Watched.gradients += 1
        return gradient


@each_attack
def test_an_attack_follows_gradients_unless_its_card_says_otherwise(family: str) -> None:
    model, (x, y) = trained(), images(6)
    watched: nn.Module = Wrapped(model, lambda logits, x: Watched.apply(logits))
    entered_once(watched, x)  # which asks for a gradient too
    Watched.gradients = 0
    made(family).run(watched, x, y, ThreatModel(eps=0.5 if family == "blackbox" else 0.01))
    assert (Watched.gradients == 0) == (registry.ATTACKS[family].warning is not None)


@pytest.mark.parametrize("name", ["dlr", "dlr_targeted"])
def test_below_its_classes_the_margin_stands_in_for_a_ratio(name: str) -> None:
    loss, margin = getattr(losses, name), losses.margin_targeted if "targeted" in name else losses.margin
    y, target = torch.tensor([0, 0]), [torch.tensor([1, 1])] if "targeted" in name else []
    logits = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    differs = [c for c in range(2, 7) if not loss(logits[:, :c], y, *target).equal(margin(logits[:, :c], y, *target))]
    with_it = [card for f, card in registry.ATTACKS.items() if name in {s.loss.__name__ for s in stages_of(made(f))}]
    assert with_it
    assert {card.classes for card in with_it} == {differs[0]}


def test_every_warning_is_explained() -> None:
    cards = (*registry.ATTACKS.values(), *registry.TOOLKIT_ATTACKS.values())
    assert {card.warning for card in cards} - {None} <= WARNINGS.keys()
    table = (ROOT / "docs" / "masking.md").read_text().partition("| warning | raised when |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`.+`) \| (.+) \|$", table, re.MULTILINE)
    assert {name: when for names, when in rows for name in re.findall("[a-z-]+", names)} == WARNINGS


def test_recipes_name_recipes() -> None:
    for name, recipe in registry.RECIPES.items():
        assert name == recipe.name
        assert recipe.of or name in registry.RECIPES
    looks = {recipe.look for recipe in registry.RECIPES.values()} - {None}
    assert len(looks) == len(registry.RECIPES)


def test_recipes_stand_in_the_papers_order_with_controls_beside_what_they_control_for() -> None:
    expected = ["baseline", "ensemble2", "ensemble4", "singleadv", "doubleadv", "quadadv"]
    expected += ["ensemble2adv", "ensemble4adv", "separate2adv", "separate4adv", "gated2adv", "somebody-elses"]
    assert sorted(set(expected), key=place) == expected


def test_no_two_suites_are_equally_strong() -> None:
    strengths = [suite.strength for suite in registry.SUITES.values() if suite.strength]
    assert len(set(strengths)) == len(strengths)
    order = ("exhaustive", "strongest", "autoattack+pgd20", "autoattack", "quick", "paper500", "paper", "pgd20")
    assert sorted(order, key=registry.strength_of, reverse=True) == list(order)
    assert registry.strength_of("pgd20+exhaustive") == registry.strength_of("exhaustive")


@pytest.mark.parametrize("module", ["cards", "recipes", "suites", "names", "plugins"])
def test_cards_import_nothing_heavy(module: str) -> None:
    heavy = "{'torch', 'numpy', 'pandas', 'rich', 'typer'}"
    code = f"import sys, ensemble_bench.registry.{module}; sys.exit(bool({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
