"""The pace of a model: measured on a model that is left as it was."""

import torch
from small_models import trained

from ensemble_bench.attacks.engine import Budget
from ensemble_bench.evaluation.pace import seconds_a_pass


def test_the_pace_is_positive_and_leaves_the_model_as_it_was() -> None:
    model = trained(members=2).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pace = seconds_a_pass(model, (1, 8, 8), Budget(batch_size=4, device=torch.device("cpu")), classes=10, images=3)
    assert pace > 0
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
