"""The estimate bounds what an evaluation then takes, and is near it where every image stands."""

from pathlib import Path

import pytest
import torch
from small_models import ARCHITECTURE, Wrapped, blackbox_set, trained
from torch import Tensor, nn

from ensemble_bench import attacks
from ensemble_bench.evaluation import estimate as estimates
from ensemble_bench.evaluation.estimate import estimate, passes_an_image
from ensemble_bench.evaluation.request import Request, plans_of
from ensemble_bench.evaluation.runner import evaluate_checkpoints
from ensemble_bench.models import checkpoint
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.registry import SUITES
from ensemble_bench.threat import ThreatModel

NAMES = (
    *("ifgsm5", "pgd20", "apgd20", "margin20", "margin-odi20", "mora10", "sweep5", "apgd-t5", "margin-t5", "fab-t5"),
    *("square30", "bypass10", "mean-member10", "member-transfer10", "arc5", "margin-doubled40"),
    *("pma20", "reacg20", "malt5"),
)
ROWS = 6


def unbreakable(members: int) -> Ensemble:
    """An ensemble whose answer is class 3 whatever it is shown, with gradients all the same."""

    def certain(logits: Tensor, x: Tensor) -> Tensor:
        return logits.tanh() + 100 * torch.nn.functional.one_hot(torch.full((len(x),), 3), 10)

    return Ensemble(Wrapped(network, certain) for network in trained(members=members).members).eval()


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_no_attack_takes_more_passes_and_most_take_nearly_as_many(name: str, members: int) -> None:
    model: nn.Module = unbreakable(members)
    x = torch.rand(ROWS, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.full((ROWS,), 3)
    attack = attacks.get(name)
    outcome = attack.run(model, x, y, ThreatModel(eps=8 / 255))
    assert not outcome.broken.any()
    bound = ROWS * passes_an_image(attack, model, classes=10)
    assert outcome.passes <= bound
    if "doubled" not in name:  # a chain that ends when nothing more breaks
        assert outcome.passes > 0.7 * bound


@pytest.mark.parametrize("suite", ["paper", "quick", "appendix"])
def test_a_suite_takes_no_more_than_its_estimate(tmp_path: Path, suite: str) -> None:
    meta = {"dataset": "digits", "threat": {"norm": "linf", "eps": 32 / 255}}
    checkpoint.save(tmp_path / "s-s0" / "best.safetensors", trained(), ARCHITECTURE, meta)
    request = Request(models=(tmp_path / "s-s0",), suite=suite, n=10, blackbox=blackbox_set())
    (plan,) = plans_of(request)
    costs = {cost.attack: cost for cost in estimate(plan)}
    assert not (tmp_path / "s-s0" / "evaluations").exists()
    (record,) = evaluate_checkpoints([tmp_path / "s-s0"], suite=suite, n=10, blackbox=blackbox_set())
    assert list(costs) == ["clean", *(attack.name for attack in record.attacks)]
    for attack in record.attacks:
        assert attack.passes is not None
        assert attack.passes <= costs[attack.name].passes
    assert record.flops is not None
    assert all(cost.flops == cost.passes * record.flops for cost in costs.values())


def test_time_is_passes_times_the_pace_that_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meta = {"dataset": "digits", "threat": {"norm": "linf", "eps": 32 / 255}}
    checkpoint.save(tmp_path / "s-s0" / "best.safetensors", trained(), ARCHITECTURE, meta)
    monkeypatch.setattr(estimates, "seconds_a_pass", lambda *_, **__: 0.25)
    (plan,) = plans_of(Request(models=(tmp_path / "s-s0",), suite="autoattack", n=4))
    costs = estimate(plan)
    assert [cost.attack for cost in costs] == ["clean", *SUITES["autoattack"].attacks, "probe"]
    assert all(cost.seconds == cost.passes / 4 for cost in costs)


def test_attacks_of_toolkits_are_marked_as_a_guess() -> None:
    assert estimates.is_guess(attacks.get("torchattacks:PGD(steps=3)"))
    assert not estimates.is_guess(attacks.get("square30"))
