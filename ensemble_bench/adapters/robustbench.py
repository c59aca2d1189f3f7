"""RobustBench's own benchmark (Croce et al. 2021), made to import, and to run on images of ours."""

import contextlib
import importlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn

from ensemble_bench import data
from ensemble_bench.adapters.autoattack import classes_of, limit_targets, tracer_kept
from ensemble_bench.adapters.view import AttackView
from ensemble_bench.attacks import engine
from ensemble_bench.errors import InvalidValueError, check_kind
from ensemble_bench.kinds import takes
from ensemble_bench.leaderboard.model_info import NORMS
from ensemble_bench.models import calling
from ensemble_bench.models.called import as_module
from ensemble_bench.models.entry import IMAGES, entered_once
from ensemble_bench.threat import ThreatModel
from ensemble_bench.training.hardware import resolve_device

# What of RobustBench's own arguments is left to the caller; the others are given, have no effect or (aa_state_path, in
# 1.1.1) always fail.
SETTINGS = ("model_name", "to_disk")


class Accuracies(NamedTuple):
    """What RobustBench returns: fractions of the images in [0, 1]."""

    clean_accuracy: float
    robust_accuracy: float


class Scores(Accuracies):
    """A pair (clean_accuracy, robust_accuracy); `data_name` says of which data set's images, `n` of how many."""

    data_name: str
    n: int


def _autoattack_module() -> dict[str, ModuleType]:
    """Modules named `autoattack` and `autoattack.state` over pyautoattack, which renamed the arguments."""
    import pyautoattack
    from pyautoattack.state import EvaluationState

    class AutoAttack(pyautoattack.AutoAttack):  # type: ignore[misc]  # pyautoattack has no types
        """pyautoattack under the names and return value that RobustBench expects."""

        def __init__(
            self, model: Any, *, attacks_to_run: list[str] | None = None, log_path: str | None = None, **kwargs: Any
        ) -> None:
            # pyautoattack reports through `logging` and has no log_path.
            super().__init__(model, attacks=attacks_to_run or None, **kwargs)

        def run_standard_evaluation(
            self,
            x_orig: Tensor,
            y_orig: Tensor,
            bs: int = 250,
            return_labels: bool = False,
            state_path: Path | None = None,
        ) -> Any:
            # Its checks call .view(), which images that are not contiguous do not have.
            x_adv, y_adv = super().run_standard_evaluation(
                x_orig.contiguous(), y_orig.contiguous(), batch_size=bs, state_path=state_path
            )
            return (x_adv, y_adv) if return_labels else x_adv

    package, state = ModuleType("autoattack"), ModuleType("autoattack.state")
    vars(package).update(AutoAttack=AutoAttack, state=state, __path__=[])
    vars(state).update(EvaluationState=EvaluationState)
    return {"autoattack": package, "autoattack.state": state}


@contextmanager
def _autoattack_importable() -> Iterator[None]:
    """Let `import autoattack` find pyautoattack inside the block, unless an `autoattack` is there already."""
    added = {name: module for name, module in _autoattack_module().items() if name not in sys.modules}
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            sys.modules.pop(name, None)


def import_robustbench() -> ModuleType:
    """Import `robustbench`, which on its own fails for want of a module `autoattack`.

    Raises InvalidValueError that names the mend when its requirements are broken; nothing half imported is left.
    """
    before = set(sys.modules)
    try:
        # Of deprecated things that it, and what it needs, import.
        with warnings.catch_warnings(action="ignore"), _autoattack_importable():
            importlib.import_module("robustbench.eval")
    except Exception as error:  # mixed files of two releases fail in any way
        for name in set(sys.modules) - before:
            if name.partition(".")[0] == "robustbench":
                del sys.modules[name]
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise InvalidValueError(
            f"robustbench cannot be imported ({said}): `ensemble-bench doctor` says why; "
            "it needs 'robustbench>=1.1.1' 'pyautoattack>=0.2.0' 'setuptools<82'"
        ) from error
    return sys.modules["robustbench"]


@takes
def benchmark(
    model: nn.Module,
    *,
    n: int | None = None,
    dataset: str = "cifar10",
    threat: ThreatModel | None = None,
    data_dir: str | Path | None = None,
    batch_size: int = 128,
    seed: int = 0,
    device: str | torch.device | None = None,
    **settings: Any,
) -> Scores:
    """Run RobustBench's `benchmark()` (AutoAttack, standard): a pair (clean_accuracy, robust_accuracy).

    Scored are the first `n` images (default: all) of the test split that `eb.data.load(dataset, data_dir=data_dir)`
    returns, in place of those that RobustBench would download. `data_name` of the result says which data set that is by
    its content: only where it is "cifar10" do the numbers compare with published ones. RobustBench takes whatever it
    gets for CIFAR-10. `threat` defaults to the data set's; RobustBench draws its `seed` from the clock, here it is
    given. `settings` are its own model_name and to_disk. Its prints go to stderr. Global random state, the model and
    its device are left as they were found. With fewer than ten classes there are fewer targets. Before all that the
    model is looked at (models/entry.py).

    Raises AttackError for a model that this refuses, what `eb.data.load` raises, and InvalidValueError below four
    classes, for an unknown setting, and for to_disk without model_name or where the file would pass other images for
    the official ones.
    """
    for name in settings:
        if name not in SETTINGS:
            raise InvalidValueError(
                f"{name!r} is no setting of robustbench.benchmark: choose from {', '.join(SETTINGS)}"
            )
    model = as_module(model)
    if threat is not None:
        check_kind("threat", threat, ThreatModel)
    budget = engine.Budget(seed=seed, batch_size=batch_size)
    source = data.open_source(dataset, data_dir)
    images = source.split("test")
    images = images if n is None else images.first(n)
    if settings.get("to_disk"):
        if source.name != "cifar10":
            raise InvalidValueError(f"to_disk is True: RobustBench would file results on {source.name} as cifar10")
        if settings.get("model_name") is None:  # which RobustBench says when all attacks have run
            raise InvalidValueError("to_disk is True: model_name is missing, the name to file results under")
    threat = threat or ThreatModel(eps=source.default_eps)
    own = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    at = own if device is None else resolve_device(device)
    x, _ = images.batch(slice(IMAGES))
    entered = entered_once(model, x.to(own))
    theirs = import_robustbench().eval
    patched, their_attack = partial(mock.patch.object, theirs), theirs.AutoAttack

    def auto_attack(*args: Any, **given: Any) -> Any:
        made = their_attack(*args, seed=budget.seed, **given)
        limit_targets(made, classes)
        return made

    with (
        calling.frozen(model),
        tracer_kept(),
        contextlib.redirect_stdout(sys.stderr),  # stdout is for results
        patched("load_clean_dataset", lambda *_: images.batch(slice(None))),
        patched("AutoAttack", auto_attack),
    ):
        classes = classes_of(entered.model, x.to(own))
        try:
            clean, robust = theirs.benchmark(
                AttackView(entered.model),
                n_examples=len(images),
                dataset="cifar10",
                threat_model=NORMS[threat.norm],
                eps=threat.eps,
                batch_size=budget.batch_size,
                device=at,
                **settings,
            )
        finally:
            model.to(own)
    scores = Scores(float(clean), float(robust))
    scores.data_name, scores.n = source.name, len(images)
    return scores
