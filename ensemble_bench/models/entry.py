"""The entry of models: what is asked of each before it is attacked, of every member, wherever it came from."""

import logging
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ensemble_bench.errors import AttackError, is_out_of_memory
from ensemble_bench.models import randomised
from ensemble_bench.models.adapted import AsLogits, OneByOne, Scaled, are_probabilities, factor_for, scales_by_batch
from ensemble_bench.models.answers import answer
from ensemble_bench.models.calling import frozen, logits_of
from ensemble_bench.models.ensemble import Ensemble

IMAGES = 12
"""Images that are asked about, beside `NOISE` more of uniform noise, so that each has others in its batch."""
NOISE = 4
AGAIN = 4
MEANS = 16
# Asked the same again, or with other images in the other half of the batch, the honest networks of every kind here
# answer bit by bit the same on a CPU. In another split of the batch other kernels add in another order: up to 7e-7 in
# float32, in units of the gap from the largest log-probability to the median one, and up to 1e-3 in networks made to
# ripple, whose answers are their own for all that.
SAME = 1e-5
SPLIT = 1e-2
COARSE = {torch.float16: 1e-2, torch.bfloat16: 8e-2}
"""Instead of both where weights, or the products of a GPU (TF32), have so few bits: ten roundings."""
SIGMAS = 8.0


@dataclass(frozen=True, kw_only=True)
class Change:
    """What stands around a network, so that it gives logits in reach of gradients; by default nothing."""

    one_by_one: bool = False
    as_logits: bool = False
    factor: float = 1.0

    def of(self, network: nn.Module) -> nn.Module:
        """The network with the same order of classes on every image."""
        network = OneByOne(network) if self.one_by_one else network
        network = AsLogits(network) if self.as_logits else network
        return network if self.factor == 1 else Scaled(network, self.factor)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was found of a model: `changes` are those of its members, or its own.

    `randomised` says that it answers the same images differently; with `exact`, only by which of its members it draws.
    `no_gradient` is why it has none, empty where it has. `notes` are names of warnings with their messages.
    """

    changes: tuple[Change, ...] = (Change(),)
    randomised: bool = False
    exact: bool = False
    no_gradient: str = ""
    notes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Entered(Found):
    """A model that may be attacked, of the same order of classes as the one that entered, and what was found of it."""

    model: nn.Module

    @property
    def climbed(self) -> nn.Module:
        """What attacks climb: the model, of a randomised one its expected, of one that votes its mean probability."""
        return randomised.expected(self.model, exact=self.exact) if self.randomised else _differentiable(self.model)

    @property
    def judge(self) -> nn.Module:
        """What decides: the model, of a randomised one many draws."""
        return randomised.judge(self.model, exact=self.exact) if self.randomised else self.model


def enter(model: nn.Module, x: Float[Tensor, "batch *image"]) -> Entered:
    """Look at `model` on a few images, of those in `x` and of noise; its state is as it was afterwards.

    Raises AttackError, in one line, for what gives no finite logits (batch, class), and for answers that depend on the
    other images of the batch.
    """
    found = _look(model, x)
    return Entered(model=_changed(model, found.changes), **vars(found))


def entered_once(model: nn.Module, x: Float[Tensor, "batch *image"]) -> Entered:
    """As `enter`, of a model that many callers bring in again: it is asked once for its weights and a shape of images.

    What there is to say of it is logged, once. Changes of its code, and of weights by way of `.data`, go unseen.
    """
    weights = list(chain(model.parameters(), model.buffers()))
    state = (
        tuple((id(t), 0 if t.is_inference() else t._version) for t in weights),
        tuple(map(id, model.modules())),
        getattr(model, "aggregation", None),
        (x.shape[1:], x.dtype, x.device),
    )
    at = id(model)
    if at not in _KNOWN:
        _KNOWN[at] = _Known(weakref.ref(model, lambda _: _KNOWN.pop(at, None)))
    known = _KNOWN[at]
    if known.state != state:
        known.found, known.state = _look(model, x), state
        _log(model, known)
    assert known.found is not None
    return Entered(model=_changed(model, known.found.changes), **vars(known.found))


class _Known:
    """What was found of a model that is alive, when it was in this `state`, and what was said of it."""

    def __init__(self, model: "weakref.ref[nn.Module]") -> None:
        self.model = model
        self.state: Any = None
        self.found: Found | None = None
        self.told: set[str] = set()


_KNOWN: dict[int, _Known] = {}


def _log(model: nn.Module, known: _Known) -> None:
    assert known.found is not None
    notes = known.found.notes
    if known.found.randomised:
        notes = (*notes, ("randomised", "it answers at random: gradients and verdicts are means over many draws"))
    for name, message in notes:
        if name not in known.told:
            logging.getLogger("ensemble_bench").warning("%s: %s: %s", type(model).__name__, name, message)
        known.told.add(name)


def _look(model: nn.Module, x: Tensor) -> Found:
    noise = torch.rand(NOISE, *x.shape[1:], generator=torch.Generator().manual_seed(0)).to(x)
    x = torch.cat([x[:IMAGES].detach(), noise])
    with frozen(model):
        x = x.clone()  # of inference mode, if that is where it was made
        torch.manual_seed(0)
        with torch.no_grad():
            found = _changes(model, x)
        changed = _changed(model, found.changes)
        with frozen(changed):
            with torch.no_grad():
                found = _stable(found, changed, x)
            return replace(found, no_gradient=_no_gradient(_differentiable(changed), x))


def _changes(model: nn.Module, x: Tensor) -> Found:
    """What has to stand around the networks of `model`, and what there is to say of them."""
    logits_of(model, x)
    # An ensemble's answer depends on how its members' logits compare: only one alone may be rescaled.
    networks = _networks(model)
    changes, notes = zip(*(_network(network, x, alone=len(networks) == 1) for network in networks), strict=True)
    return Found(changes=changes, notes=tuple(dict.fromkeys(note for told in notes for note in told)))


def _differentiable(model: nn.Module) -> nn.Module:
    """`model`; of an ensemble that votes, whose counts have no gradient, the same that averages probabilities."""
    votes = isinstance(model, Ensemble) and model.aggregation == "vote"
    return model.aggregate_as("prob") if votes else model  # type: ignore[operator]


def _networks(model: nn.Module) -> list[nn.Module]:
    """The members of an ensemble; any other model itself."""
    return list(model.members) if type(model) is Ensemble else [model]


def _changed(model: nn.Module, changes: Sequence[Change]) -> nn.Module:
    """`model`, or one of the same order of classes that gives logits which gradients can work with."""
    if all(change == Change() for change in changes):
        return model
    networks = [change.of(network) for change, network in zip(changes, _networks(model), strict=True)]
    if type(model) is not Ensemble:
        return networks[0]
    return model.with_members(networks, model.aggregation)


def _network(network: nn.Module, x: Tensor, *, alone: bool) -> tuple[Change, tuple[tuple[str, str], ...]]:
    """What has to stand around one network, and what there is to say of it."""
    if isinstance(network, Ensemble) or hasattr(network, "member_logits"):
        return Change(), ()
    notes: list[tuple[str, str]] = []
    change = Change(one_by_one=scales_by_batch(network))
    logits = answer(change.of(network), x)
    if are_probabilities(logits):
        change = replace(change, as_logits=True)
        notes.append(
            ("probabilities-not-logits", "the model gives probabilities: attacks and verdicts here take their log")
        )
        logits = answer(change.of(network), x)
    elif (distinct := torch.unique(logits).numel()) < logits.numel() // 4:
        message = f"{distinct} of {logits.numel()} logits are distinct: rounded or saturated, which hides gradients"
        notes.append(("coarse-logits", message))
    factor = factor_for(logits) if alone else 1.0
    if factor != 1:
        spread = (logits.amax(dim=1) - logits.amin(dim=1)).max().item()
        message = (
            f"logits of {len(x)} images lie up to {spread:.2g} apart: attacks and verdicts take {factor:g} times these"
        )
        notes.append(("rescaled-logits", message))
    return replace(change, factor=factor), tuple(notes)


def _stable(found: Found, model: nn.Module, x: Tensor) -> Found:
    """Ask the same again, and in other batches; raises AttackError where the batch makes a difference."""
    # A vote is a step: one network's last bit may turn it, so that what is compared is what is voted on.
    asked = model.aggregate_as("prob") if isinstance(model, Ensemble) and model.aggregation == "vote" else model
    bound = _coarseness(model, x)
    whole = logits_of(asked, x).double().log_softmax(1)
    again = [logits_of(asked, x) for _ in range(AGAIN - 1)]
    if max(_moved(whole, answers) for answers in again) > (bound or SAME):
        members = isinstance(model, Ensemble) and model.aggregation == "draw"
        exact = members and _repeats(model.aggregate_as("prob"), x, bound or SAME)  # type: ignore[operator]
        _check_alone(asked, x)
        return replace(found, randomised=True, exact=exact)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).to(x.device)
    parts = torch.split(x, [3, len(x) - 3])
    half, crowd = len(x) // 2, x.repeat(4, *[1] * (x.dim() - 1))
    questions: tuple[tuple[str, Callable[[], Tensor], float], ...] = (
        ("beside other images", lambda: logits_of(asked, torch.cat([x[:half], 1 - x[half:]]))[:half], SAME),
        ("in another order", lambda: logits_of(asked, x[order])[order.argsort()], SPLIT),
        (
            "in another split",
            lambda: torch.cat([logits_of(asked, part) for part in parts]),
            SPLIT,
        ),
        ("in a larger batch", lambda: logits_of(asked, crowd)[-len(x) :], SPLIT),
        ("alone", lambda: _alone(asked, x), SPLIT),
    )
    for how, ask, limit in questions:
        try:
            answers = ask()
        except AttackError:
            raise
        except Exception as error:  # whatever foreign code does with a batch that it is not made for
            if is_out_of_memory(error):  # the batch is too large, for the attacks too, which halve theirs
                continue
            told = " ".join(str(error).split())[:160]
            raise AttackError(f"{_DEPENDS}: asked {how}, it fails: {type(error).__name__}: {told}") from error
        if (moved := _moved(whole[: len(answers)], answers)) > (bound or limit):
            raise AttackError(
                f"{_DEPENDS}: asked {how}, its log-probabilities move by {moved:.2g}{_batch_norms(model)}"
            )
    return found


_DEPENDS = (
    "the model's answer to an image depends on the other images of its batch, so that its robustness is undefined"
)


def _check_alone(asked: nn.Module, x: Tensor) -> None:
    """Raise AttackError where the mean answer of a model that answers at random depends on the batch."""
    whole = torch.stack([logits_of(asked, x).double().log_softmax(1) for _ in range(MEANS)])
    alone = torch.stack([_alone(asked, x).double().log_softmax(1) for _ in range(MEANS)])
    top = whole.mean(0).argmax(1)[None, :, None].expand(MEANS, -1, 1)
    a, b = whole.gather(2, top)[..., 0], alone.gather(2, top)[..., 0]
    sigma = ((a.var(0) + b.var(0)) / MEANS).sqrt() + SPLIT
    if (moved := ((a.mean(0) - b.mean(0)).abs() / sigma).max().item()) > SIGMAS:
        told = f"its mean log-probabilities over {MEANS} draws move by {moved:.2g} standard errors when asked alone"
        raise AttackError(f"{_DEPENDS}: {told}{_batch_norms(asked)}")


def _alone(model: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([logits_of(model, image) for image in torch.split(x, 1)])


def _repeats(model: nn.Module, x: Tensor, bound: float) -> bool:
    whole = logits_of(model, x).double().log_softmax(1)
    return all(_moved(whole, logits_of(model, x)) <= bound for _ in range(AGAIN - 1))


def _moved(log_probs: Float[Tensor, "batch class"], logits: Float[Tensor, "batch class"]) -> float:
    """Largest change of a log-probability, in units of the gap from an image's largest to its median one, or 1.

    Of classes below the median nothing depends, and one that is far off would hide what moves the others.
    """
    median = log_probs.median(dim=1, keepdim=True).values
    scale = (log_probs.amax(dim=1) - median[:, 0]).clamp_min(1)
    change = (logits.double().log_softmax(1) - log_probs).abs() * (log_probs >= median)
    return float((change.amax(dim=1) / scale).max())


def _coarseness(model: nn.Module, x: Tensor) -> float:
    """The bound for weights, or products, of few bits; 0 for float32 and float64."""
    few = max((COARSE.get(p.dtype, 0.0) for p in model.parameters()), default=0.0)
    return max(few, COARSE[torch.float16] if x.is_cuda and torch.backends.cudnn.allow_tf32 else 0.0)


def _batch_norms(model: nn.Module) -> str:
    """Names the first batch norm that takes its statistics from the batch in eval mode too."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None):
            return f" ({type(module).__name__} {name} takes its statistics from the batch)"
    return ""


def _no_gradient(model: nn.Module, x: Tensor) -> str:
    """Why the model's output cannot be differentiated to its input; empty where it can."""
    kinds = sorted({type(m).__name__ for m in model.modules() if ".quantized" in type(m).__module__})
    integer = f"its layers compute in integers ({', '.join(kinds)})" if kinds else ""
    x = x.clone().requires_grad_()
    try:
        with torch.enable_grad():
            logits = logits_of(model, x)
            if not logits.requires_grad:
                return integer or "it detaches its input (torch.no_grad, inference_mode, detach)"
            torch.autograd.grad(logits.sum(), x)
    except (RuntimeError, NotImplementedError) as error:
        return integer or f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    return ""
