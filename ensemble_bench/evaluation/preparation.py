"""From a plan to the job of scoring: a look at the model, and what proposes in its place."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from ensemble_bench.attacks import Attack
from ensemble_bench.errors import AttackError
from ensemble_bench.evaluation.draws import Drawn
from ensemble_bench.evaluation.estimate import Calls, passes_an_image
from ensemble_bench.evaluation.job import Job
from ensemble_bench.evaluation.pace import seconds_a_pass
from ensemble_bench.evaluation.plan import EvaluationPlan
from ensemble_bench.evaluation.suite_progress import Forecast
from ensemble_bench.evaluation.trust.conduct import is_white_box
from ensemble_bench.models import randomised
from ensemble_bench.models.folded import twin_of


def entered(plan: EvaluationPlan) -> EvaluationPlan:
    """The plan after a look at its model, and told what was found; raises AttackError for one that is refused."""
    if plan.subject.entered is not None:
        return plan
    subject = plan.subject.enter(plan.images, plan.budget.device)
    assert subject.entered is not None
    for name, message in subject.entered.notes:
        plan.progress(subject.name, 1, 1, status=f"{name}: {message}")
    if subject.is_randomised:
        plan.progress(subject.name, 1, 1, status="answers at random: gradients and verdicts are means over many draws")
    return replace(plan, subject=subject)


def check_gradients(plan: EvaluationPlan, made: Sequence[Attack]) -> None:
    """Raise AttackError where attacks need gradients that the model has not, naming those that do without."""
    found = plan.subject.entered
    if found is None or not found.no_gradient:
        return
    need = [a.name for a in made if is_white_box(a.name, a.settings())] + (["the probe"] if plan.suite.probe else [])
    if need:
        raise AttackError(
            f"{plan.subject.name}: it has no gradient, which {', '.join(need[:4])} need: {found.no_gradient}; "
            "--suite square5000 needs none"
        )


def job_of(plan: EvaluationPlan, made: Sequence[Attack]) -> Job:
    """The evaluation to do, with the twin that proposes in all of it."""
    found, classes = plan.subject.entered, len(plan.source.classes)
    assert found is not None
    model, exact = found.model.to(plan.budget.device), found.exact
    twin = twin_of(found.climbed, plan.images.batch(slice(1))[0].to(plan.budget.device), compile=plan.budget.compile)
    drawn = None
    if found.randomised:
        other = randomised.judge(model, exact=exact, seed=1)
        drawn = Drawn(model=model, other_judge=other, exact=exact)
        model = found.judge
    if twin.note:
        plan.progress(plan.subject.name, 1, 1, status=twin.note)
    bound = partial(passes_an_image, model=model, classes=classes, cost=Calls.of(twin.model, model))
    extra = 0 if drawn is None else drawn.passes
    pace = partial(
        seconds_a_pass,
        model,
        plan.source.image_shape,
        plan.budget,
        classes=classes,
        images=len(plan.images),
        proposer=twin.model,
    )
    return Job(
        label=plan.subject.name,
        model=model,
        twin=twin,
        drawn=drawn,
        images=plan.images,
        threat=plan.threat,
        attacks=made,
        cascade=plan.suite.cascade,
        one_in=plan.one_in,
        carried=plan.carried,
        budget=plan.budget,
        forecast=Forecast(passes=lambda attack: bound(attack) + extra, seconds_a_pass=pace),
        progress=plan.progress,
    )
