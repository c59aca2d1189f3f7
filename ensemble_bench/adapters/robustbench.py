"""RobustBench's own benchmark (Croce et al. 2021), made to import and run."""

import inspect
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ensemble_bench.adapters.view import AttackView
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.threat import ThreatModel


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

    Raises InvalidValueError that names the mend when its requirements are broken.
    """
    try:
        with _autoattack_importable():
            import robustbench
            import robustbench.eval
    except ImportError as error:
        raise InvalidValueError(
            f"robustbench cannot be imported ({error}): "
            "install 'robustbench>=1.1.1' 'pyautoattack>=0.2.0' 'setuptools<82'"
        ) from error
    found: ModuleType = robustbench
    return found


def benchmark(
    model: nn.Module,
    *,
    n: int = 10_000,
    dataset: str = "cifar10",
    threat: ThreatModel | None = None,
    data_dir: str | Path = "data",
    batch_size: int = 128,
    device: str | torch.device | None = None,
    **settings: Any,
) -> tuple[float, float]:
    """Run RobustBench's `benchmark()` (AutoAttack, standard) and return (clean_accuracy, robust_accuracy).

    RobustBench reads the official CIFAR-10 from `data_dir`, and downloads it there when it is missing. `settings`
    go to its `benchmark()` unchanged. The default threat is linf with eps 8/255. Raises InvalidValueError for an
    unknown setting.
    """
    threat = threat or ThreatModel()
    run = import_robustbench().eval.benchmark
    known = inspect.signature(run).parameters
    for name in settings:
        if name not in known:
            raise InvalidValueError(f"{name!r} is no setting of robustbench.benchmark: choose from {', '.join(known)}")
    own = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    logging.getLogger("auto-attack").setLevel(logging.INFO)
    clean, robust = run(
        AttackView(model),
        n_examples=n,
        dataset=dataset,
        threat_model={"linf": "Linf", "l2": "L2"}[threat.norm],
        eps=threat.eps,
        data_dir=str(data_dir),
        batch_size=batch_size,
        device=torch.device(device) if device is not None else own,
        **settings,
    )
    return float(clean), float(robust)
