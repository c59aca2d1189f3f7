"""Chains: stages on survivors, the same as the stages one by one, and never weaker than any of them."""

from typing import Any

import pytest
import torch
from small_models import images, recorded, searched, trained

from ensemble_bench import ThreatModel, attacks, losses
from ensemble_bench.attacks.engine import Chain, Outcome, doubled, targeted
from ensemble_bench.attacks.engine.chain import merge
from ensemble_bench.attacks.pgd import margin_pgd
from ensemble_bench.errors import EnsembleBenchError, InvalidValueError, UnknownNameError

THREAT = ThreatModel(eps=0.08)


def chain(*names: str, patience: int | None = None) -> Chain:
    return Chain(name="chain", stages=tuple(attacks.get(n) for n in names), patience=patience)


def test_broken_is_what_any_stage_breaks() -> None:
    model, (x, y) = trained(), images(80)
    names = ("ifgsm2", "margin10", "apgd10")
    whole = chain(*names).run(model, x, y, THREAT, batch_size=32)
    alone = [attacks.get(name).run(model, x, y, THREAT) for name in names]
    assert torch.equal(whole.broken, torch.stack([a.broken for a in alone]).any(dim=0))
    assert 0 < alone[0].broken.sum() < whole.broken.sum() < 80
    with torch.no_grad():
        assert torch.equal(model(whole.x_adv).argmax(dim=1) != y, whole.broken)
    THREAT.check(whole.x_adv, x)
    first = alone[0].broken
    assert torch.equal(whole.steps[first], alone[0].steps[first])
    second = alone[1].broken & ~first
    assert torch.equal(whole.steps[second], 2 + alone[1].steps[second])
    assert (whole.steps[~whole.broken] == 22).all()


def test_margin_is_the_largest_of_the_stages_where_nothing_broke() -> None:
    model, (x, y) = trained(), images(40)
    names = ("margin3", "apgd3")
    whole = chain(*names).run(model, x, y, THREAT)
    alone = torch.stack([attacks.get(name).run(model, x, y, THREAT).margin for name in names])
    standing = ~whole.broken
    torch.testing.assert_close(whole.margin[standing], alone.amax(dim=0)[standing], rtol=0, atol=1e-4)


def test_an_image_keeps_what_is_further_and_costs_add_up() -> None:
    """Of four images three meet a second stage, which breaks one, gets another further, and the last less far."""

    def outcome(
        x_adv: list[float], broken: list[bool], steps: list[int], margin: list[float], **counts: int
    ) -> Outcome:
        return Outcome(
            x_adv=torch.tensor(x_adv)[:, None],
            broken=torch.tensor(broken),
            steps=torch.tensor(steps),
            margin=torch.tensor(margin),
            **counts,
        )

    starts = [0.1, 0.2, 0.3, 0.4], [1, 0, 0, 0], [1, 5, 5, 5], [9, -2, -2, -2]
    first = outcome(*starts, zero_gradients=3, passes=40)
    second = outcome([0.5, 0.6, 0.7], [1, 0, 0], [2, 7, 7], [1, -1, -3], zero_gradients=2, passes=60)
    found = merge(first, second, torch.tensor([1, 2, 3]))
    assert found.x_adv.flatten().tolist() == pytest.approx([0.1, 0.5, 0.6, 0.4])
    assert found.broken.tolist() == [True, True, False, False]
    assert found.steps.tolist() == [1, 7, 12, 12]
    assert found.margin.tolist() == [9, 1, -1, -2]
    assert (found.zero_gradients, found.passes) == (3, 100)
    assert first.margin.tolist() == [9, -2, -2, -2]


def test_later_stages_meet_survivors_alone() -> None:
    model, (x, y) = trained(), images(60)
    first = attacks.get("margin10").run(model, x, y, THREAT)
    with recorded(model) as calls:
        chain("margin10", "pgd4").run(model, x, y, THREAT, batch_size=64)
    gradients = [n for n, grad in calls if grad]
    assert gradients[-4] <= int((~first.broken).sum())


@pytest.mark.parametrize("patience", [None, 1, 2])
def test_patience_ends_the_chain_when_nothing_more_breaks(patience: int | None) -> None:
    model, (x, y) = trained(), images(30)
    names = ("margin20", "ifgsm1", "ifgsm2", "ifgsm3")  # nothing is left for the weak ones
    with recorded(model) as calls:
        searched(chain(*names, patience=patience), model, x, y, THREAT, batch_size=64)
    gradients = sum(1 for _, grad in calls if grad)
    assert gradients == 20 + {None: 1 + 2 + 3, 1: 1, 2: 1 + 2}[patience]


def test_steps_double_up_to_the_last() -> None:
    made = doubled("margin-doubled100", margin_pgd, first=10, last=100)
    assert made.name == "margin-doubled100"
    assert [s.name for s in made.stages] == [f"margin-doubled100/{n}" for n in (10, 20, 40, 80)]
    assert [s.settings()["step_size"] for s in made.stages] == [2.5 / n for n in (10, 20, 40, 80)]


def test_fewer_steps_than_the_first_stage_has_are_what_is_run() -> None:
    assert [(s.name, s.settings()["steps"]) for s in attacks.get("margin-doubled5").parts(trained())] == [
        ("margin-doubled5/5", 5)
    ]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mora5", {"alpha": 0.3}),
        ("apgd-t5", {"target": 4}),
        ("malt5", {"target": 4}),
        ("sweep5", {"loss": losses.dlr}),
        ("member-transfer5", {"member": 1}),
    ],
)
def test_a_field_that_the_stages_set_cannot_be_set(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(EnsembleBenchError, match=f"{name}.*{next(iter(settings))}"):
        attacks.get(name, **settings)


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("apgd-t5", {"target"}),
        ("mora5", {"alpha", "target"}),
        ("malt5", {"target"}),
        ("sweep5", {"loss", "target"}),
        ("margin-doubled20", {"steps"}),
        ("member-transfer5", {"name"}),
    ],
)
def test_settings_that_are_offered_are_taken(name: str, own: set[str]) -> None:
    with pytest.raises(UnknownNameError) as told:
        attacks.get(name, foo=1)
    offered = str(told.value).partition("choose from ")[2].split(", ")
    assert {"restarts", "keep"} <= set(offered)
    assert not (own | {"stages"}) & set(offered)
    stage = attacks.get(name).parts(trained())[0]
    stage = stage.stages[0] if isinstance(stage, Chain) else stage
    for key in offered:
        if hasattr(stage, key):
            attacks.get(name, **{key: getattr(stage, key)})


def test_nine_classes_are_aimed_at_as_in_autoattack() -> None:
    made = targeted(attacks.get("margin5", target=1))
    assert [s.target for s in made.stages] == list(range(1, 10))
    assert [s.name for s in made.stages] == [f"margin5/target{t}" for t in range(1, 10)]


def test_a_chain_of_nothing_or_of_no_patience_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="at least one stage"):
        Chain(name="empty", stages=())
    with pytest.raises(InvalidValueError, match="patience is 0"):
        chain("pgd5", patience=0)


def test_settings_hold_every_stage() -> None:
    settings = attacks.get("apgd-t5", classes=3).settings()
    assert settings["name"] == "apgd-t5"
    assert [s["target"] for s in settings["stages"]] == [1, 2, 3]
    assert {s["loss"] for s in settings["stages"]} == {"dlr_targeted"}
