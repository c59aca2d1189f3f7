"""A plan's settings: those of the preset, of the data set, and of the recipe, which go before them."""

from dataclasses import replace

import pytest
import torch

from ensemble_bench import data
from ensemble_bench.errors import InvalidValueError, UnknownNameError
from ensemble_bench.registry import Recipe
from ensemble_bench.training import plan as plans
from ensemble_bench.training.presets import PRESETS


def test_settings_of_a_recipe_replace_the_presets(digits: data.DataSource) -> None:
    def resolve(**settings: object) -> plans.TrainingPlan:
        recipe = Recipe(name="mine", description="", settings=settings)
        return plans.resolve(recipe, digits, preset="tiny", seed=0, device=torch.device("cpu"))

    assert resolve().settings == PRESETS["tiny"].on("digits")
    changed = resolve(learning_rate=0.25, steps=None, epochs=3)
    assert (changed.settings.learning_rate, changed.steps) == (0.25, 3 * changed.steps_per_epoch)
    assert changed.as_dict()["settings"]["learning_rate"] == 0.25
    with pytest.raises(UnknownNameError, match="unknown setting of recipe 'mine': 'learnig_rate': did you mean learni"):
        resolve(learnig_rate=0.25)


def test_a_data_set_trains_with_the_settings_it_names(digits: data.DataSource) -> None:

    def resolve(source: data.DataSource) -> plans.TrainingPlan:
        recipe = Recipe(name="mine", description="")
        return plans.resolve(recipe, source, preset="tiny", seed=0, device=torch.device("cpu"))

    other = replace(digits, dataset="other", trains_like="digits")
    assert resolve(other).settings == resolve(digits).settings
    assert resolve(other).dataset == "other"
    with pytest.raises(InvalidValueError, match=r"no settings for 'other': it has .*digits.* trains_like"):
        resolve(replace(other, trains_like=None))
