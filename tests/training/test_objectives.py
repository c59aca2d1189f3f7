"""Objectives that compare clean and attacked images, those of one's own, and how many members learn from them."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ensemble_bench as eb
from ensemble_bench.data import DataSource
from ensemble_bench.errors import InvalidValueError, UnknownNameError
from ensemble_bench.models.checkpoint import read_info
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.registry import RECIPES, Recipe
from ensemble_bench.training import plan as plans
from ensemble_bench.training.objectives import COMPARING, objective_of

CPU = torch.device("cpu")
Terms = Callable[[Any, Tensor, Any, Tensor], Any]


class _Fixed(nn.Module):
    """A member that answers with its images, flattened."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


@pytest.fixture
def pair() -> tuple[Ensemble, Tensor, Tensor, Tensor]:
    model = Ensemble([_Fixed(), _Fixed()])
    x, x_adv = torch.randn(2, 6, 1, 1, 4, dtype=torch.float64)
    return model, x, x_adv, torch.tensor([0, 1, 2, 3, 0, 1])


def test_trades_is_what_its_paper_says(pair: tuple[Ensemble, Tensor, Tensor, Tensor]) -> None:
    model, x, x_adv, y = pair
    clean, attacked = (images.flatten(1) for images in (x, x_adv))
    divergence = F.kl_div(attacked.log_softmax(1), clean.softmax(1), reduction="none").sum(1)
    (found,) = COMPARING["trades"](model, x, x_adv, y)
    torch.testing.assert_close(found, F.cross_entropy(clean, y, reduction="none") + 6 * divergence)


def test_mart_is_what_its_paper_says(pair: tuple[Ensemble, Tensor, Tensor, Tensor]) -> None:
    model, x, x_adv, y = pair
    (found,) = COMPARING["mart"](model, x, x_adv, y)
    for row, label in enumerate(y.tolist()):
        p, q = x[row].flatten().softmax(0), x_adv[row].flatten().softmax(0)
        wrong = max(float(q[k]) for k in range(4) if k != label)
        boosted = -q[label].log() - torch.log(torch.tensor(1.0001 - wrong, dtype=torch.float64))
        divergence = sum(p[k] * (p[k] / q[k]).log() for k in range(4))
        expected = boosted + 5 * (1 - p[label]) * divergence
        torch.testing.assert_close(found[row], expected)


@pytest.mark.parametrize("name", COMPARING)
def test_gradients_are_finite_where_a_model_is_certain(name: str) -> None:
    x = torch.tensor([[200.0, 0, 0], [0, 200, 0]], requires_grad=True)
    (loss,) = COMPARING[name](Ensemble([_Fixed()]), x[:, None, None], -x[:, None, None], torch.tensor([1, 0]))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def _resolve(digits: DataSource, recipe: str | Recipe = "ensemble2adv", **choices: Any) -> plans.TrainingPlan:
    chosen = plans.chosen_recipe(recipe)
    return plans.resolve(chosen, digits, preset="tiny", seed=0, device=CPU, **choices)


def one_term(model: Ensemble, x: Tensor, x_adv: Tensor | None, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x), y, reduction="none")


def two_terms(model: Ensemble, x: Tensor, x_adv: Tensor | None, y: Tensor) -> Iterator[Tensor]:
    yield from (one_term(model, x, None, y), one_term(model, cast(Tensor, x_adv), None, y))


def test_a_function_is_an_objective(pair: tuple[Ensemble, Tensor, Tensor, Tensor]) -> None:
    (found,) = objective_of(one_term)(*pair)
    torch.testing.assert_close(found, F.cross_entropy(pair[1].flatten(1), pair[3], reduction="none"))
    assert len(list(objective_of(two_terms)(*pair))) == 2


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (
            lambda model, x, x_adv, y: one_term(model, x, x_adv, y).mean(),
            r"gives shape \(\): expected a loss for each",
        ),
        (lambda model, x, x_adv, y: 3.0, "gives a float: expected a loss for each of 6 images"),
        (lambda model, x, x_adv, y: None, "gives a NoneType"),
    ],
)
def test_a_function_that_gives_no_loss_an_image(
    objective: Terms, message: str, pair: tuple[Ensemble, Tensor, Tensor, Tensor]
) -> None:
    with pytest.raises(InvalidValueError, match=message):
        list(objective_of(objective)(*pair))


def test_a_run_with_three_members_and_an_objective_of_its_own(tmp_path: Path) -> None:
    choices: dict[str, Any] = {"max_steps": 3, "runs": tmp_path, "threads": 1}
    run = eb.train("ensemble2adv", members=3, objective=two_terms, **choices)
    assert run.name == "ensemble2adv-digits-tiny-members-3-objective-two_terms-steps-3-s0"
    info = read_info(run)
    assert info.architecture.members == 3
    assert info.meta["changes"] == {"members": 3, "objective": "two_terms", "steps": 3}
    assert eb.train("ensemble2adv", members=3, objective=two_terms, **choices) == run


@pytest.mark.parametrize("objective", ["trades", "mart"])
def test_training_with_an_objective_that_compares(objective: str, tmp_path: Path) -> None:
    run = eb.train("jointloss2adv", objective=objective, max_steps=2, out=tmp_path / "run", threads=1)
    assert read_info(run).meta["objective"] == objective


def test_a_recipe_object(tmp_path: Path) -> None:
    run = eb.train(eb.Recipe(members=3), max_steps=2, runs=tmp_path, threads=1)
    assert run.name == "ensemble3adv-digits-tiny-steps-2-s0"
    assert len(eb.load(run).members) == 3


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        (Recipe(), "singleadv"),
        (Recipe(adversarial=False), "baseline"),
        (Recipe(members=2), "ensemble2adv"),
        (Recipe(members=4, adversarial=False), "ensemble4"),
        (Recipe(members=3, gated=True), "ensemble3adv-gated"),
        (Recipe(members=3, attacked="members", objective="trades"), "ensemble3adv-each-trades"),
        (Recipe(width_times=3), "wide3adv"),
        (Recipe(joins=3, of="singleadv"), "joined3-singleadv"),
        *((replace(recipe, name="", description="", look=None), name) for name, recipe in RECIPES.items()),
    ],
)
def test_recipes_are_called_after_what_they_do(recipe: Recipe, name: str) -> None:
    assert recipe.name == name
    assert plans.chosen_recipe(recipe) is recipe


BAD: dict[str, tuple[Callable[[DataSource], object], str]] = {
    "members 0": (lambda d: _resolve(d, members=0), "members is 0: choose 1 to 64"),
    "members 65": (lambda d: _resolve(d, members=65), "members is 65: choose 1 to 64"),
    "members text": (lambda d: _resolve(d, members="3"), "members is '3': choose a whole number"),
    "wider": (lambda d: _resolve(d, "doubleadv", members=3), "doubleadv is one wider network"),
    "a gate alone": (lambda d: _resolve(d, "gated2adv", members=1), "gated2adv needs at least 2"),
    "nothing attacked": (lambda d: _resolve(d, "baseline", objective="trades"), "'trades': baseline attacks nothing"),
    "no objective": (lambda d: _resolve(d, objective=3), "objective is a int: expected a name or a function"),
    "unknown": (lambda d: _resolve(d, objective="trade"), "unknown objective 'trade': did you mean trades"),
    "named like ours": (
        lambda d: _resolve(d, objective=SimpleNamespace(trades=_trades).trades),
        "a function called 'trades', as another objective is",
    ),
    "recipe members": (lambda d: Recipe(members=0), "recipe's members is 0: choose 1 to 64"),
    "recipe attacked": (lambda d: Recipe(members=2, attacked="all"), "unknown recipe's attacked 'all'"),
    "recipe joins": (lambda d: Recipe(joins=2), "joins 2 runs of None: give joins and of together"),
    "recipe name": (lambda d: Recipe(name="a b"), "name is 'a b': expected letters"),
    "recipe wide": (lambda d: Recipe(members=2, width_times=2), "only a single network is widened"),
    "taken": (lambda d: _resolve(d, Recipe(name="ensemble2adv", members=3)), "as another one is: give it a name"),
    "no recipe": (lambda d: _resolve(d, cast(str, 3)), "unknown recipe 3"),
}


def _trades(*_: object) -> Tensor:
    return torch.zeros(1)


_trades.__name__ = "trades"


@pytest.mark.parametrize("case", BAD)
def test_bad_choices_are_one_line(case: str, digits: DataSource) -> None:
    make, message = BAD[case]
    with pytest.raises((InvalidValueError, UnknownNameError), match=message) as caught:
        make(digits)
    assert "\n" not in str(caught.value)


def test_a_joined_recipe_has_no_other_number(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="members is 3: separate2adv joins 2 runs of singleadv"):
        eb.train("separate2adv", members=3, max_steps=1, runs=tmp_path)


def test_our_recipes_are_none_of_their_own() -> None:
    assert all(plans.chosen_recipe(recipe) is recipe for recipe in RECIPES.values())
