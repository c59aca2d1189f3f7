"""The attack engine: a task and an outcome, the state of images, a worker that calls models, one loop, and chains."""

from ensemble_bench.attacks.engine.attack import Attack
from ensemble_bench.attacks.engine.chain import Chain, doubled, targeted
from ensemble_bench.attacks.engine.counting import Counted
from ensemble_bench.attacks.engine.loop import GradientAttack, Loss
from ensemble_bench.attacks.engine.state import Noise, State, cosine, per_image, select, where
from ensemble_bench.attacks.engine.task import Budget, OnDone, Outcome, Task, check, validate
from ensemble_bench.attacks.engine.worker import Worker

__all__ = [
    "Attack",
    "Budget",
    "Chain",
    "Counted",
    "GradientAttack",
    "Loss",
    "Noise",
    "OnDone",
    "Outcome",
    "State",
    "Task",
    "Worker",
    "check",
    "cosine",
    "doubled",
    "per_image",
    "select",
    "targeted",
    "validate",
    "where",
]
