"""MALT on a linear model, where its distances are exact, and against targets in order of the logits."""

import pytest
import torch
from small_models import Linear, images, trained
from torch import Tensor

from ensemble_bench import ThreatModel, attacks, losses
from ensemble_bench.attacks.engine import Chain, Task
from ensemble_bench.attacks.malt import MALT
from ensemble_bench.errors import InvalidValueError

THREATS = (ThreatModel(eps=0.1), ThreatModel(norm="l2", eps=0.2))


def flat_and_steep(threat: ThreatModel) -> tuple[Linear, Tensor, Tensor]:
    """Five classes, of which 1 has the strongest wrong logit and no slope: out of reach, as 2 and 3 are. 4 is near."""
    weight = torch.zeros(5, 4)
    weight[1, 0], weight[2, 1], weight[3, 2] = 0.1, 1.0, 1.0
    weight[4] = torch.tensor([60.0, -60.0, 60.0, -60.0])
    x = torch.full((3, 1, 2, 2), 0.5)
    bias = torch.tensor([5.0, 4.0, 0.0, -3.0, 0.0])
    gap = 0.8 * threat.eps * torch.linalg.vector_norm(weight[4], ord=1 if threat.norm == "linf" else 2)
    bias[4] = 5.0 - gap - weight[4] @ x[0].flatten()
    return Linear(weight, bias), x, torch.zeros(3, dtype=torch.int64)


@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.norm)
def test_the_first_class_is_the_nearest_and_not_the_strongest(threat: ThreatModel) -> None:
    model, x, y = flat_and_steep(threat)
    assert (model(x)[:, 1:].argmax(dim=1) == 0).all()
    assert not attacks.get("apgd-t10", classes=3).run(model, x, y, threat).broken.any()
    found = attacks.get("malt10", classes=1, random_start=False).run(model, x, y, threat)
    assert found.broken.all()
    assert (model(found.x_adv).argmax(dim=1) == 4).all()


@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.norm)
def test_classes_come_in_order_of_their_distance(threat: ThreatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(6, 9, generator=generator), torch.randn(6, generator=generator)
    x = torch.rand(30, 1, 3, 3, generator=generator)
    model = Linear(weight, bias)
    y = model(x).argmax(dim=1)
    seen: list[Tensor] = []
    monkeypatch.setattr(Task, "of", lambda task, rows: seen.append(task.targets) or task)
    attacks.get("malt1", classes=1).run(model, x, y, threat)
    logits = model(x)
    apart = weight[None] - weight[y][:, None]
    length = torch.linalg.vector_norm(apart, ord=1 if threat.norm == "linf" else 2, dim=2)
    distance = (logits.gather(1, y[:, None]) - logits) / length.clamp_min(1e-9)
    expected = distance.scatter(1, y[:, None], torch.inf).argsort(dim=1)[:, :5]
    assert torch.equal(seen[0], expected)
    assert not torch.equal(seen[0], logits.scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True)[:, :5])


@pytest.mark.parametrize("candidates", [3, 100])
def test_classes_are_ranked_once_and_only_candidates_are(candidates: int) -> None:
    model, (x, y), threat = trained(), images(20), ThreatModel(eps=0.01)
    stages = [attacks.get("margin1", loss=losses.margin_targeted, target=t, keep="last") for t in (1, 2)]
    alone = Chain(name="alone", stages=stages).run(model, x, y, threat)
    found = MALT(name="ranked", stages=stages, candidates=candidates).run(model, x, y, threat)
    assert not (alone.broken | found.broken)[model(x).argmax(dim=1) == y].any()
    # A forward pass, and a backward pass for each of the wrong classes that are looked at.
    assert found.passes - alone.passes == 20 * (1 + min(candidates, 9))


def test_it_breaks_more_than_a_few_plain_steps() -> None:
    (x, y), threat = images(200), ThreatModel(eps=0.1)
    for members in (1, 2):
        few, found = (attacks.get(name).run(trained(members=members), x, y, threat) for name in ("ifgsm2", "malt10"))
        assert not (few.broken & ~found.broken).any()
        assert found.broken.sum() > few.broken.sum() + 5


def test_bad_settings_are_named() -> None:
    with pytest.raises(InvalidValueError, match="malt5: candidates is 0: expected at least 1"):
        MALT(name="malt5", stages=[attacks.get("pgd5")], candidates=0)
