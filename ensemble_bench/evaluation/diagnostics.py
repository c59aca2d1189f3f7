"""Diagnostics of an ensemble: whether its members are fooled together, and how much each of them adds."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ensemble_bench import attacks, losses
from ensemble_bench.attacks import Attack, engine
from ensemble_bench.attacks.engine import Budget, GradientAttack
from ensemble_bench.data import DataSource, open_source
from ensemble_bench.data.given import given_source
from ensemble_bench.errors import AttackError, InvalidValueError
from ensemble_bench.evaluation import subject as subjects
from ensemble_bench.evaluation.plan import source_of, threat_of
from ensemble_bench.evaluation.request import images_of
from ensemble_bench.evaluation.subject import Subject
from ensemble_bench.kinds import takes
from ensemble_bench.models import calling
from ensemble_bench.models.architecture import CheckpointInfo
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.models.randomised import share_right
from ensemble_bench.models.sources import describe
from ensemble_bench.progress import Progress, silent
from ensemble_bench.records import Threat
from ensemble_bench.records.diagnosis import ENSEMBLE, Diagnosis, Finding, member, without
from ensemble_bench.registry.terms import TEST
from ensemble_bench.threat import ThreatModel
from ensemble_bench.training.hardware import resolve_device

IMAGES = 200


@takes
def diagnose(
    model: str | Path | nn.Module,
    *,
    dataset: str | None = None,
    data: Any = None,
    data_dir: str | Path | None = None,
    split: str = "test",
    n: int | None = IMAGES,
    norm: str | None = None,
    eps: float | None = None,
    attack: str | Attack = "margin20",
    seed: int = 0,
    arch: str | None = None,
    normalise: str | None = None,
    model_dir: str | Path = "models",
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    progress: Progress = silent,
) -> Diagnosis:
    """Compare the members of an ensemble with each other and with the whole on the first `n` images; None: all.

    By default these are 200, or all where there are fewer.

    `model` is an `Ensemble`, or what `load` takes, with its `arch`, `normalise` and `model_dir`: a run, or models of
    any kind joined by plus signs. Data set and threat model default to those of the training; `data` and `attack` may
    be objects, as in `evaluate`. `attack` makes x_adv at full strength for everything but the robust accuracies, which
    it scores. `Finding` says what each number means. Of an ensemble without one member, the gate's weights are
    renormalised over the others. Of one that draws a member at random, accuracies are expected ones. Raises
    EnsembleBenchError for bad values, a single network, and a model that the look at it refuses.
    """
    made = attack if isinstance(attack, Attack) else attacks.get(attack)
    if not isinstance(made, GradientAttack):
        raise InvalidValueError(
            f"attack is {made.name!r}: members are compared under a gradient attack, such as margin20"
        )
    if isinstance(model, nn.Module):
        source, threat, subject = _given(model, dataset, data, data_dir, split, norm, eps)
    else:
        described = describe(model, arch=arch, normalise=normalise, model_dir=model_dir)
        source = source_of(described, dataset, data_dir) if data is None else given_source(data, dataset, pair=TEST)
        threat = threat_of(described, source, norm, eps)
        subject = subjects.of_source(described, source, runs=Path("runs"))
    whole = subject.load()
    if not isinstance(whole, Ensemble) or len(whole.members) < 2:
        shown = type(model).__name__ if isinstance(model, nn.Module) else str(model)
        raise InvalidValueError(f"{shown} has one member: diagnose compares members, of an ensemble or of A+B")
    images = images_of(source, split, None)
    images = images if n is None or (n == IMAGES and len(images) <= n) else images.first(n)
    own = next((p.device for p in whole.parameters()), torch.device("cpu"))
    where = own if device is None and isinstance(model, nn.Module) else resolve_device(device)
    subject = replace(subject, model=whole).enter(images, where)
    compared = _comparable(subject)
    budget = Budget.on(where, seed=seed, batch_size=batch_size)
    x, y = images.batch(slice(None))
    bench = _Bench(
        label=subject.name,
        x=x.to(where),
        y=y.to(where),
        ids=images.ids,
        threat=threat,
        attack=made,
        budget=budget,
        progress=progress,
    )
    with calling.frozen(compared):
        findings = tuple(_findings(bench, compared))
    return Diagnosis(
        model=subject.name,
        weights_hash=subject.weights_hash,
        data_name=images.name,
        split=split,
        n=len(images),
        threat=Threat(norm=threat.norm, eps=threat.eps),
        attack=made.name,
        seed=seed,
        members=len(compared.members),
        findings=findings,
    )


def _given(
    model: nn.Module,
    dataset: str | None,
    data: Any,
    data_dir: str | Path | None,
    split: str,
    norm: str | None,
    eps: float | None,
) -> tuple[DataSource, ThreatModel, Subject]:
    """The images, the threat model and the subject of a model in memory."""
    info = model.info if isinstance(model, Ensemble) else None
    source = _source(info, dataset, data_dir) if data is None else given_source(data, dataset, pair=TEST)
    return source, _threat_model(info, source, norm, eps), subjects.in_memory(model, source.split(split))


def _comparable(subject: Subject) -> Ensemble:
    """The ensemble to look into; raises AttackError where it has no gradient, or its members answer at random."""
    entered = subject.entered
    assert entered is not None
    assert isinstance(entered.model, Ensemble)  # what enters is an ensemble
    if entered.no_gradient:
        raise AttackError(f"{subject.name}: it has no gradient, which the attack needs: {entered.no_gradient}")
    if entered.randomised and not entered.exact:
        raise AttackError(f"{subject.name}: members that answer at random cannot be compared image by image")
    return entered.model


def _climbed(model: nn.Module) -> nn.Module:
    """What attacks climb: of an ensemble that draws a member or counts votes, the mean probability."""
    if isinstance(model, Ensemble) and model.aggregation in ("draw", "vote"):
        return model.aggregate_as("prob")
    return model


def _source(info: CheckpointInfo | None, dataset: str | None, data_dir: str | Path | None) -> DataSource:
    """The data set `dataset`, by default that of the training."""
    if info is not None:
        return source_of(info, dataset, data_dir)
    if dataset is None:
        raise InvalidValueError("the model does not say what it was trained on: pass dataset=")
    return open_source(dataset, data_dir)


def _threat_model(info: CheckpointInfo | None, source: DataSource, norm: str | None, eps: float | None) -> ThreatModel:
    """The threat model of `norm` and `eps`, by default that of the training, else the data set's own."""
    if info is not None:
        return threat_of(info, source, norm, eps)
    if norm not in (None, "linf") and eps is None:
        raise InvalidValueError(f"norm is {norm!r}: {source.name} has a default eps for linf only, so give eps")
    return ThreatModel(norm=norm or "linf", eps=source.default_eps if eps is None else eps)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Bench:
    """The images on their device, and how to attack them."""

    label: str
    x: Float[Tensor, "batch channel row column"]
    y: Int64[Tensor, "batch"]
    ids: Int64[Tensor, "batch"]
    threat: ThreatModel
    attack: GradientAttack
    budget: Budget
    progress: Progress

    def run(self, attack: GradientAttack, model: nn.Module, rows: Tensor, label: str) -> engine.Outcome:
        """Run `attack` on the images at `rows`, and report progress under `label`."""
        label, total = f"{self.label} {attack.name} {label}", len(rows)
        task = engine.Task(
            model=model,
            x=self.x[rows],
            y=self.y[rows],
            threat=self.threat,
            ids=self.ids[rows.cpu()],
            budget=self.budget,
            on_done=lambda done, _: self.progress(label, min(done, total - 1), total),
            twin=_climbed(model),
        )
        outcome = attack.search(task)
        self.progress(label, total, total)
        return outcome


def _findings(bench: _Bench, model: Ensemble) -> Iterator[Finding]:
    """All findings, in the order of the report."""
    parts = {member(i): m for i, m in enumerate(model.members)}
    everyone: dict[str, nn.Module] = {**parts, ENSEMBLE: model}
    full = replace(bench.attack, stop_early=False)
    rows = torch.arange(len(bench.y), device=bench.y.device)
    yield from _accuracies(bench, model, parts)
    clean, share = _verdicts(bench, model, bench.x)
    under: dict[str, Tensor] = {}
    for name, target in everyone.items():
        x_adv = bench.run(full, target, rows, f"x_adv against {name}").x_adv
        under[name], share_adv = _verdicts(bench, model, x_adv)
    # The ensemble comes last: x_adv is the one made against it.
    yield from _transfer(clean, under)
    yield from _cosines("cosine_clean", bench, model, bench.x)
    yield from _cosines("cosine_adversarial", bench, model, x_adv)
    for quantity, shares in (("share_clean", share), ("share_adversarial", share_adv)):
        for name, column in zip(parts, shares.T, strict=True):
            yield _mean(quantity, name, values=column)
    yield from _fooled(clean, under[ENSEMBLE])


def _mean(quantity: str, a: str, b: str = "", *, values: Tensor) -> Finding:
    """The mean of `values` (n,) as a finding."""
    value = values.double().mean().item() if len(values) else None
    return Finding(quantity=quantity, a=a, b=b, value=value, n=len(values))


def _verdicts(
    bench: _Bench, model: Ensemble, x: Tensor
) -> tuple[Bool[Tensor, "batch who"], Float[Tensor, "batch member"]]:
    """Whether each member and then the ensemble classify every image correctly, and each member's part of p̄_y."""
    worker = engine.Worker(model, bench.budget.batch_size)

    def forward(rows: slice) -> tuple[Tensor, ...]:
        at, y = x[rows], bench.y[rows]
        with torch.no_grad():
            logits = calling.member_logits_of(model, at)
            everyone = torch.cat([logits, calling.aggregated(worker.judge, logits, at)[None]])
            log_p = -F.cross_entropy(logits.movedim(0, 2), y[:, None].expand(-1, len(logits)), reduction="none")
            log_weights = model.log_weights(calling.channels_last(at))[..., 0].T
            # In logs, so that members that all but exclude the class still have a part each.
            share = (log_p + log_weights).double().softmax(dim=1)
        return (everyone.argmax(dim=2) == y).T, share

    right, share = worker.map(forward, len(x))
    return right, share


def _transfer(clean: Bool[Tensor, "batch who"], under: Mapping[str, Tensor]) -> Iterator[Finding]:
    """How often x_adv against the source fools the target, of the images that both classify correctly."""
    for i, (source, right) in enumerate(under.items()):
        for j, target in enumerate(under):
            both = clean[:, i] & clean[:, j]
            yield _mean("transfer", source, target, values=~right[both, j])


def _fooled(clean: Bool[Tensor, "batch who"], right: Bool[Tensor, "batch who"]) -> Iterator[Finding]:
    """How many members are wrong on x_adv against the ensemble, and how often the ensemble then is."""
    right = right[clean[:, -1]]
    wrong = (~right[:, :-1]).sum(dim=1)
    counts = range(clean.shape[1])
    for count in counts:
        yield _mean("members_fooled", str(count), values=wrong == count)
    for count in counts:
        yield _mean("ensemble_falls", str(count), values=~right[wrong == count, -1])


def _cosines(quantity: str, bench: _Bench, model: Ensemble, x: Tensor) -> Iterator[Finding]:
    """Mean cosine of the members' input gradients, pair by pair, over the images where both have one."""

    def pairwise(rows: slice) -> tuple[Tensor, ...]:
        directions = torch.stack([_direction(m, x[rows], bench.y[rows]) for m in model.members])
        return (torch.einsum("ibp, jbp -> bij", directions, directions),)

    (cosine,) = engine.Worker(model, bench.budget.batch_size).map(pairwise, len(x))
    moves = cosine.diagonal(dim1=1, dim2=2) > 0.5
    for i, j in combinations(range(len(model.members)), 2):
        yield _mean(quantity, member(i), member(j), values=cosine[moves[:, i] & moves[:, j], i, j])


def _direction(network: nn.Module, x: Tensor, y: Tensor) -> Float[Tensor, "batch pixel"]:
    """Unit input gradient of −log p_y in float64; zero where the network is flat."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = calling.logits_of(network, x)
        wrong = losses.wrong_logits(logits, y).logsumexp(dim=1)
        # −log p_y is the softplus of this gap: the same direction, but it does not vanish where p_y rounds to 1.
        gap = wrong - logits.gather(1, y[:, None])[:, 0]
        (grad,) = torch.autograd.grad(gap.sum(), x)
    return F.normalize(grad.flatten(1).double(), dim=1, eps=torch.finfo(torch.float64).tiny)


def _accuracies(bench: _Bench, model: Ensemble, parts: Mapping[str, nn.Module]) -> Iterator[Finding]:
    """Clean and robust accuracy of the ensemble, of every member alone and of the ensemble without it."""
    yield from _accuracy(bench, ENSEMBLE, model)
    alone = {name: tuple(_accuracy(bench, name, network)) for name, network in parts.items()}
    for found in alone.values():
        yield from found
    for left_out, name in enumerate(parts):
        if len(parts) == 2:  # what is left is the other member, whose numbers are known
            (other,) = (found for of, found in alone.items() if of != name)
            yield from (replace(finding, a=without(name)) for finding in other)
        else:
            yield from _accuracy(bench, without(name), _without(model, left_out))


def _accuracy(bench: _Bench, who: str, model: nn.Module) -> Iterator[Finding]:
    if isinstance(model, Ensemble) and model.aggregation == "draw":
        yield from _expected_accuracy(bench, who, model)
        return
    wrong, _ = engine.Worker(model, bench.budget.batch_size).decide(bench.x, bench.y)
    rows = (~wrong).nonzero()[:, 0]
    robust = ~wrong
    if len(rows):  # some networks fail on no images at all
        robust[rows] = ~bench.run(bench.attack, model, rows, f"on {who}").broken
    yield _mean("clean_accuracy", who, values=~wrong)
    yield _mean("robust_accuracy", who, values=robust)


def _expected_accuracy(bench: _Bench, who: str, model: Ensemble) -> Iterator[Finding]:
    """Of an ensemble that draws a member: the weight of the members that are right, every image taking every step."""
    judge, rows = model.aggregate_as("vote"), torch.arange(len(bench.y), device=bench.y.device)
    worker = engine.Worker(judge, bench.budget.batch_size)
    full = replace(bench.attack, stop_early=False)
    x_adv = bench.run(full, model, rows, f"on {who}").x_adv
    clean, attacked = (share_right(worker.logits(x, bench.y), bench.y) for x in (bench.x, x_adv))
    yield _mean("clean_accuracy", who, values=clean)
    yield _mean("robust_accuracy", who, values=torch.minimum(clean, attacked))


def _without(model: Ensemble, left_out: int) -> Ensemble:
    """The ensemble of all members but one."""
    kept = [i for i in range(len(model.members)) if i != left_out]
    gate = None if model.gate is None else _PartOfGate(model.gate, kept)
    return Ensemble([model.members[i] for i in kept], aggregation=model.aggregation, gate=gate)


class _PartOfGate(nn.Module):
    """The gate's logits of the members `kept`, whose softmax renormalises their weights."""

    def __init__(self, gate: nn.Module, kept: list[int]) -> None:
        super().__init__()
        self.gate, self.kept = gate, kept

    def forward(self, x: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch member"]:
        logits: Tensor = self.gate(x)
        return logits[:, self.kept]
