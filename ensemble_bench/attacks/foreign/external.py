"""Attacks that other libraries run: FAB-T, Square, all of torchattacks and ART; verdicts are the engine's."""

import ast
import importlib
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ensemble_bench import randomness
from ensemble_bench.attacks import engine
from ensemble_bench.attacks.engine import Attack, Counted
from ensemble_bench.errors import AttackError, EnsembleBenchError, InvalidValueError, UnknownNameError, is_out_of_memory
from ensemble_bench.models import calling
from ensemble_bench.models.calling import verdict
from ensemble_bench.threat import ThreatModel

# Modules by name, so that nothing of theirs is imported before one of their attacks is made. Each has
# check(name, arguments) -> steps, and attack(name, model, x, y, threat, arguments, *, classes, seed) -> x_adv.
TOOLKITS: Mapping[str, str] = {
    "torchattacks": "ensemble_bench.adapters.torchattacks",
    "art": "ensemble_bench.adapters.art",
    "autoattack": "ensemble_bench.adapters.autoattack",
}
FORM = "torchattacks:NAME(argument=value, …) or art:NAME(…)"


@dataclass(frozen=True, kw_only=True)
class External(Attack):
    """An attack that a toolkit runs: the class `attack` of "torchattacks", "art" or "autoattack", with `arguments`.

    It gets the correctly classified images alone, in float32 and in batches; it draws from global generators that are
    seeded for every batch and restored, so that unlike ours its results depend on the batch size. Its images are
    checked: each must be in its place and inside the ball, and the model decides again. Raises
    UnknownNameError for an attack that is not there, InvalidValueError for arguments that it does not take, that are
    not plain data, or for a toolkit that is not installed.
    """

    toolkit: str
    attack: str
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)
    steps: int = field(init=False)
    """Of an attacked image, as the arguments say; 1 where the attack has no such notion."""

    def __post_init__(self) -> None:
        for name, value in self.arguments.items():
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError):
                raise InvalidValueError(
                    f"{self.name}: {name} is {value!r}: expected numbers, strings, True, False, None or lists of these"
                ) from None
        try:
            steps = _adapter(self.toolkit).check(self.attack, self.arguments)
        except ImportError as error:
            raise InvalidValueError(f"{self.name} needs a library that cannot be imported: {error}") from error
        object.__setattr__(self, "steps", steps)

    def settings(self) -> dict[str, Any]:
        """Every field, the arguments as JSON holds them."""
        return {**super().settings(), "arguments": json.loads(json.dumps(dict(self.arguments)))}

    def seed_of(self, seed: int, image: int) -> int:
        """Seed, below 2³², of the batch whose first image has the id `image`."""
        return randomness.generator("cpu", self.name, seed, image).initial_seed() % 2**32

    def view(self, model: nn.Module, y: Int64[Tensor, "batch"]) -> nn.Module:
        """The module that the toolkit attacks on images with labels `y`: the model itself."""
        return model

    def search(self, task: engine.Task) -> engine.Outcome:
        """Hand the correctly classified images over, batch by batch; toolkits know no other precision than float32."""
        x, y = task.x, task.y
        if len(x) == 0:  # not every model takes an empty batch
            return engine.Outcome(x_adv=x, broken=y.bool(), steps=y, margin=x.new_zeros(0))
        with calling.frozen(task.model):
            worker = engine.Worker(task.model, task.budget.batch_size)
            logits = worker.clean_logits(task)
            broken, margin = verdict(logits, y)
            x_adv, rows = x.clone(), (~broken).nonzero()[:, 0]
            steps = torch.where(broken, 0, self.steps)
            counted = Counted(task.proposer)
            shown = _Shown(counted, x)

            def propose(at: Tensor) -> tuple[Tensor, ...]:
                key = self.seed_of(task.budget.seed, int(task.ids[at[0].cpu()]))
                return (self._propose(shown, x[at], y[at], task.threat, classes=logits.shape[1], seed=key),)

            for at in torch.split(rows, task.budget.batch_size) if len(rows) else ():
                (x_adv[at],) = worker.map(lambda part, at=at: propose(at[part]), len(at))  # type: ignore[misc]
                broken[at], margin[at] = worker.decide(x_adv[at], y[at])
                if task.on_done is not None:
                    task.on_done(len(x) - int((rows > at[-1]).sum()), int(broken.sum()))
        passes = worker.passes + counted.passes
        return engine.Outcome(x_adv=x_adv, broken=broken, steps=steps, margin=margin, passes=passes)

    def _propose(
        self, shown: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, *, classes: int, seed: int
    ) -> Float[Tensor, "batch *image"]:
        """The toolkit's images for a batch, verified."""
        # Copies: an attack that writes into its input must not move the ball that it is held to.
        given = x.float().clone(memory_format=torch.contiguous_format)
        seen = self.view(shown, y)
        run: Callable[..., Any] = _adapter(self.toolkit).attack
        try:
            with _seeded(seed), torch.enable_grad():
                found = run(self.attack, seen, given, y.clone(), threat, self.arguments, classes=classes, seed=seed)
        except AttackError as error:
            raise AttackError(f"{self.name}: {error}") from error
        except EnsembleBenchError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise  # the worker halves the batch
            said = " ".join(str(error).split())
            raise AttackError(f"{self.name}: {type(error).__name__}: {said}") from error
        try:
            return _verified(found, x, threat)
        except AttackError as error:
            raise AttackError(f"{self.name}: {error}") from None


def fab_t(steps: int, **settings: Any) -> External:
    """FAB-T as in AutoAttack: `steps` iterations towards each of the nine strongest wrong classes (Croce & Hein 2020).

    `settings` are a name, or arguments of the library's class such as n_restarts.
    """
    arguments = {"n_iter": steps, "targeted": True, "n_restarts": 1, "n_target_classes": 9}
    return _autoattack(f"fab-t{steps}", "FABAttack_PT", {**arguments, **settings})


def square(steps: int, **settings: Any) -> External:
    """Square as in AutoAttack: `steps` queries (Andriushchenko et al. 2020); `settings` as for `fab_t`."""
    arguments = {"n_queries": steps, "p_init": 0.8, "n_restarts": 1, "resc_schedule": False}
    return _autoattack(f"square{steps}", "SquareAttack", {**arguments, **settings})


def parse(name: str) -> External:
    """Attack called "torchattacks:NAME(argument=value, …)" or "art:NAME(…)"; its name is this text in one spelling.

    Values are Python literals or fractions such as 8/255; nothing is evaluated. Raises InvalidValueError for text
    of another form, else as External.
    """
    match = re.fullmatch(r"\s*(\w+)\s*:\s*(\w+)\s*(\(.*\))?\s*", name, re.DOTALL)
    if match is None:
        raise InvalidValueError(f"attack {name!r}: expected {FORM}")
    toolkit, attack, inside = match.groups()
    if toolkit not in TOOLKITS:
        raise UnknownNameError("toolkit", toolkit, TOOLKITS)
    try:
        call = ast.parse(f"f{inside or '()'}", mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise InvalidValueError(f"attack {name!r}: {inside} cannot be read: expected {FORM}") from None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
        raise InvalidValueError(f"attack {name!r}: its arguments need names: expected {FORM}")
    arguments: dict[str, Any] = {}
    spelled = []
    for keyword in call.keywords:
        if keyword.arg is None or keyword.arg in arguments:
            what = "**" if keyword.arg is None else f"{keyword.arg} twice"
            raise InvalidValueError(f"attack {name!r}: it has {what}: expected {FORM}")
        arguments[keyword.arg], text = _value(name, keyword.value)
        spelled.append(f"{keyword.arg}={text}")
    listed = f"({', '.join(spelled)})" if spelled else ""
    return External(name=f"{toolkit}:{attack}{listed}", toolkit=toolkit, attack=attack, arguments=arguments)


class _Shown(nn.Module):
    """The model that toolkits get: in float32, with an error for images or logits that are not finite."""

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.model = model
        self.dtype = x.dtype
        # Toolkits look at the first parameter for the device, and not every model has one.
        self.first = nn.Parameter(torch.empty(0, device=x.device), requires_grad=False)

    def forward(self, x: Float[Tensor, "batch *image"]) -> Float[Tensor, "batch class"]:
        """Logits; raises AttackError for images or logits that are not finite."""
        if not x.isfinite().all():
            raise AttackError("it shows the model images with NaN or infinite pixels")
        # Models run in channels-last layout, and toolkits flatten with `view` the gradients that come back: through
        # two reshapes these are row-major.
        x = x.flatten(1).reshape(x.shape)
        return calling.logits_of(self.model, x.to(self.dtype)).to(x.dtype)


def _adapter(toolkit: str) -> Any:
    """Module that runs the attacks of a toolkit."""
    if toolkit not in TOOLKITS:
        raise UnknownNameError("toolkit", toolkit, TOOLKITS)
    return importlib.import_module(TOOLKITS[toolkit])


def _autoattack(name: str, attack: str, arguments: dict[str, Any]) -> External:
    name = arguments.pop("name", name)
    return External(name=name, toolkit="autoattack", attack=attack, arguments=arguments)


def _value(name: str, node: ast.expr) -> tuple[Any, str]:
    """A literal, or a fraction of two numbers, and how it is written."""
    try:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            above, below = ast.literal_eval(node.left), ast.literal_eval(node.right)
            return above / below, f"{above!r}/{below!r}"
        value = ast.literal_eval(node)
    except (ValueError, TypeError, ArithmeticError, MemoryError, RecursionError):
        raise InvalidValueError(
            f"attack {name!r}: {ast.unparse(node)} is no value: expected a literal or a fraction such as 8/255"
        ) from None
    return value, repr(value)


def _verified(found: Any, x: Tensor, threat: ThreatModel) -> Tensor:
    """`found` as images like `x`; raises AttackError unless each is where it belongs and inside its ball."""
    if isinstance(found, np.ndarray):
        found = torch.from_numpy(found)
    if not isinstance(found, Tensor) or not found.is_floating_point():
        what = f"{found.dtype} images" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise AttackError(f"it returned {what}: expected a tensor of floating point images")
    x_adv = found.detach().to(x)
    try:
        threat.check(x_adv, x)
    except AttackError:
        if _permuted(x_adv, x, threat):
            raise AttackError("it returned the images in another order") from None
        raise
    return x_adv


def _permuted(x_adv: Tensor, x: Tensor, threat: ThreatModel) -> bool:
    """Whether every image is inside the ball of some image of the batch, its own or another."""
    if x_adv.shape != x.shape or not x_adv.isfinite().all():
        return False
    nearest = [int(threat.distance(image.expand_as(x), x).argmin()) for image in x_adv]
    try:
        threat.check(x_adv, x[nearest])
    except AttackError:
        return False
    return True


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators that toolkits draw from; NumPy's and Python's are put back (`frozen` does torch's)."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
