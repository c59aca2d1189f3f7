"""An evaluation of several models as jobs: one for every block of images, then one that makes the records."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ensemble_bench.evaluation.images import check_choice
from ensemble_bench.evaluation.job import BLOCK
from ensemble_bench.evaluation.request import Request, budget_on, plans_of
from ensemble_bench.experiment.cluster import LOCAL
from ensemble_bench.experiment.plan import Job, in_blocks
from ensemble_bench.training.hardware import resolve_device


def jobs_of(request: Request) -> list[Job]:
    """The jobs of `request`; black-box sets that do not exist are built here, for all jobs to find.

    Raises as `evaluate_checkpoints` for what is wrong with the request.
    """
    jobs: list[Job] = []
    models = _models(request)
    if request.save_images is not None:
        check_choice(request.save_images, evaluations=len(models), sizes=len(request.sizes))
    for model, images in models.items():
        arguments = _plain(replace(request, models=(model,)))
        evaluation = Job(name=model, call="evaluate", arguments=arguments, row=model, column=request.suite)
        jobs += in_blocks(evaluation, images=images, block=BLOCK)
    return jobs


def decided(request: Request, *, ray: str | None) -> Request:
    """The request with what is open decided once for all workers, which must do the same.

    Here and on "local" Ray its device on this machine decides, raising as `resolve_device`. Nodes of a cluster may be
    of several kinds: on these it is float32, not compiled.
    """
    if ray not in (None, LOCAL):
        precision = "float32" if request.precision == "auto" else request.precision
        return replace(request, precision=precision, compile=bool(request.compile))
    device, precision = resolve_device(request.device), request.precision
    here = budget_on(device, seed=0, batch_size=None, precision=precision, compile=request.compile)
    return replace(request, precision=here.precision, compile=here.compile)


def _models(request: Request) -> dict[str, int]:
    """Every model by a text that means it on every node, and the images that it meets."""
    found: dict[str, int] = {}
    for given in (None,) if request.models is None else request.models:
        for plan in plans_of(request if given is None else replace(request, models=(given,))):
            plan.attacks()  # builds the black-box set
            info = plan.subject.info
            ours = info is not None and plan.subject.home == info.path.parent
            text = str(info.path.resolve()) if info is not None and ours else str(given)
            found[text] = len(plan.images)
    return found


def _plain(request: Request) -> dict[str, Any]:
    """The request as arguments, with folders that do not depend on where a process stands."""
    values = vars(request)
    places = ("runs", "data_dir", "blackbox", "model_dir", "save_images")
    folders = {name: values[name] for name in places if values[name] is not None}
    return values | {name: str(Path(folder).resolve()) for name, folder in folders.items()}
