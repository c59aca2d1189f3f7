"""The same attack, run by our engine, by torchattacks and by ART on the same settings: "ifgsm20@art"."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ensemble_bench import losses
from ensemble_bench.attacks import engine
from ensemble_bench.attacks.apgd import APGD, apgd_ce
from ensemble_bench.attacks.engine import Attack
from ensemble_bench.attacks.foreign.external import External
from ensemble_bench.attacks.pgd import PGD, bim, ifgsm, margin_pgd
from ensemble_bench.errors import AttackError, UnknownNameError
from ensemble_bench.models.answers import logits_in
from ensemble_bench.records.threat import NORMS
from ensemble_bench.registry import split_steps
from ensemble_bench.threat import ThreatModel

FAMILIES: Mapping[str, Callable[..., PGD | APGD]] = {"bim": bim, "ifgsm": ifgsm, "apgd": apgd_ce, "margin": margin_pgd}
Call = tuple[str, Mapping[str, Any]]
"""A toolkit's class, and its arguments other than norm, eps, steps and step size."""

_PGD: Call = ("ProjectedGradientDescent", {"num_random_init": 1})
_APGD: Call = ("APGD", {"n_restarts": 1, "loss": "ce", "eot_iter": 1, "rho": 0.75})
_AUTO_PGD: Call = ("AutoProjectedGradientDescent", {"nb_random_init": 1, "loss_type": "cross_entropy"})
# Who runs what: what toolkits have no class for under a norm is the nearest that comes to the same.
CALLS: Mapping[tuple[str, str, str], Call] = {
    ("torchattacks", "bim", "linf"): ("BIM", {}),
    ("torchattacks", "bim", "l2"): ("PGDL2", {"random_start": False}),
    ("torchattacks", "ifgsm", "linf"): ("PGD", {"random_start": True}),
    ("torchattacks", "ifgsm", "l2"): ("PGDL2", {"random_start": True}),
    ("torchattacks", "apgd", "linf"): _APGD,
    ("torchattacks", "apgd", "l2"): _APGD,
    ("torchattacks", "margin", "linf"): ("PGD", {"random_start": True}),
    ("torchattacks", "margin", "l2"): ("PGDL2", {"random_start": True}),
    ("art", "bim", "linf"): ("BasicIterativeMethod", {}),
    ("art", "bim", "l2"): ("ProjectedGradientDescent", {"num_random_init": 0}),
    ("art", "ifgsm", "linf"): _PGD,
    ("art", "ifgsm", "l2"): _PGD,
    ("art", "apgd", "linf"): _AUTO_PGD,
    ("art", "apgd", "l2"): _AUTO_PGD,
    ("art", "margin", "linf"): _PGD,
    ("art", "margin", "l2"): _PGD,
}
# What the toolkits call the number of steps and, in pixels, their size; torchattacks' APGD knows its own: 2·eps.
STEPS = {"torchattacks": "steps", "art": "max_iter"}
STEP_SIZE = {"torchattacks": "alpha", "art": "eps_step"}


def crosscheck(attack: str, implementation: str) -> Attack:
    """Attack such as "ifgsm20", run by the `implementation` "engine", "torchattacks" or "art" on the same settings.

    The engine follows the toolkits here. Of the sign steps and the steps on the margin every image takes all, and the
    last iterate counts; of Auto-PGD any iterate does, as in torchattacks and AutoAttack (ART: the last one only). What
    stays different is the noise of random starts: under l2 ours and PGDL2's are dense near the image, ART's uniform in
    the ball, and those of torchattacks' APGD on its sphere. Raises UnknownNameError for an attack that is none of
    bimN, ifgsmN, apgdN and marginN, and as External.
    """
    family, steps = split_steps(attack)
    if family not in FAMILIES or steps is None:
        raise UnknownNameError("attack to cross-check", attack, [f"{known}20" for known in FAMILIES])
    name = f"{attack}@{implementation}"
    ours = FAMILIES[family](steps, name=name)
    if implementation != "engine":
        size = ours.step_size if isinstance(ours, PGD) else 2.0
        return Counterpart(name=name, toolkit=implementation, family=family, steps=steps, step_size=size)
    return replace(ours, stop_early=False, keep="last") if isinstance(ours, PGD) else ours


@dataclass(frozen=True, kw_only=True)
class Counterpart(Attack):
    """A toolkit's version of one of our attacks, under either norm; `step_size` (first one, of "apgd") in units of eps.

    Runs and raises as External.
    """

    toolkit: str
    family: str
    steps: int
    step_size: float

    def __post_init__(self) -> None:
        for norm in NORMS:  # what cannot be made is an error before anything runs
            self.under(ThreatModel(norm=norm))

    def settings(self) -> dict[str, Any]:
        """Every field, and the toolkit's class and further arguments under each norm."""
        calls = {norm: CALLS[self.toolkit, self.family, norm] for norm in NORMS}
        return {**super().settings(), **{norm: {"attack": a, "arguments": dict(b)} for norm, (a, b) in calls.items()}}

    def under(self, threat: ThreatModel) -> External:
        """The toolkit's attack under a threat model."""
        attack, arguments = CALLS[self.toolkit, self.family, threat.norm]
        arguments = {**arguments, STEPS[self.toolkit]: self.steps}
        if attack != "APGD":
            arguments[STEP_SIZE[self.toolkit]] = self.step_size * threat.eps
        make = OnMargin if self.family == "margin" else External
        return make(name=self.name, toolkit=self.toolkit, attack=attack, arguments=arguments)

    def search(self, task: engine.Task) -> engine.Outcome:
        """Run the toolkit's attack."""
        return self.under(task.threat).search(task)


@dataclass(frozen=True, kw_only=True)
class OnMargin(External):
    """A toolkit's attack on the cross-entropy that ascends the margin, because its model is a `MarginView`."""

    def view(self, model: nn.Module, y: Tensor) -> nn.Module:
        """The model's margin as logits."""
        return MarginView(model, y)


class MarginView(nn.Module):
    """`model` with its margin in place of logits, for one batch with labels `y` in order; predictions are the same.

    The strongest wrong class and the label are all but the only ones: the other logits are −100 (finite, for toolkits
    that shift logits). The difference of the two has the gradient of the margin, but the value −1, 0 or 1: so the
    gradient of the cross-entropy, which is its softplus, is that of the margin times 0.27, 0.5 or 0.73, whose direction
    is the same and which never vanishes where a model is confident.
    """

    def __init__(self, model: nn.Module, y: Int64[Tensor, "batch"]) -> None:
        super().__init__()
        self.model, self.y = model, y

    def forward(self, x: Float[Tensor, "batch *image"]) -> Float[Tensor, "batch class"]:
        """Logits; raises AttackError for a batch that is not the one with the labels."""
        if len(x) != len(self.y):
            raise AttackError(f"it shows the model {len(x)} of {len(self.y)} images: their labels are not known")
        logits = logits_in(self.model(x), x)
        right = self.y[:, None]
        wrong = losses.wrong_logits(logits, self.y).argmax(dim=1, keepdim=True)
        margin = losses.margin(logits, self.y)[:, None]
        gap = margin + (margin.sign() - margin).detach()
        return torch.full_like(logits, -100.0).scatter(1, right, 0.0).scatter(1, wrong, gap)
