"""Our attacks as a class of torchattacks (Kim 2020)."""

from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor, nn
from torchattacks.attack import Attack

from ensemble_bench import attacks
from ensemble_bench.adapters.arguments import threat_of
from ensemble_bench.adapters.view import AttackView
from ensemble_bench.attacks import engine
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.kinds import takes
from ensemble_bench.models import calling
from ensemble_bench.models.called import as_module
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.models.normalise import Normalise
from ensemble_bench.threat import ThreatModel


class EngineAttack(Attack):  # type: ignore[misc]
    """Any attack of ours, untargeted, on any module that maps images in [0, 1] to logits.

    `attack` is a name such as "mora100", or an attack such as `eb.attacks.get("pgd20", stop_early=False)`; `eps` is in
    units of the pixel range; `norm` is "Linf" or "L2". Of an ensemble, itself or in `adapters.torchattacks.module`, the
    attack sees the members. The model is left as it was found, and every call draws the same noise: it returns what
    the attack does when called directly. After `set_normalization_used`, images come and go normalised, as elsewhere in
    torchattacks.

    Raises UnknownNameError for an attack that does not exist; InvalidValueError for another norm, eps or batch size,
    and for attacking in training mode.
    """

    @takes
    def __init__(
        self,
        model: nn.Module,
        attack: str | attacks.Attack = "mora100",
        *,
        eps: float = 8 / 255,
        norm: str = "Linf",
        seed: int = 0,
        batch_size: int = 128,
    ) -> None:
        self._engine_attack = attack if isinstance(attack, attacks.Attack) else attacks.get(attack)
        super().__init__(self._engine_attack.name, as_module(model))
        self.eps, self.norm, self.seed, self.batch_size = eps, norm, seed, batch_size
        engine.Budget(seed=seed, batch_size=batch_size)  # raises for a size that no attack can take
        self._threat()

    def __call__(
        self, inputs: Float[Tensor, "batch channel row column"], labels: Int64[Tensor, "batch"]
    ) -> Float[Tensor, "batch channel row column"]:
        """Adversarial images for `inputs`, on the device of the model."""
        if not self._normalization_applied:
            return self.forward(inputs, labels)
        # Rounding may leave the box.
        x_adv: Tensor = self.normalize(self.forward(self.inverse_normalize(inputs).clamp(0, 1), labels))
        return x_adv

    def forward(
        self, images: Float[Tensor, "batch channel row column"], labels: Int64[Tensor, "batch"]
    ) -> Float[Tensor, "batch channel row column"]:
        """Adversarial images for `images` in [0, 1]."""
        model = self.model.model if isinstance(self.model, AttackView) else self.model
        x, y = images.detach().to(self.device), labels.detach().to(self.device)
        if self.normalization_used is not None:
            mean, std = (self.normalization_used[key].flatten().tolist() for key in ("mean", "std"))
            model = _behind(Normalise(mean, std).to(x.device), model)
        return self._engine_attack(model, x, y, self._threat(), seed=self.seed, batch_size=self.batch_size)

    def set_model_training_mode(
        self, model_training: bool = False, batchnorm_training: bool = False, dropout_training: bool = False
    ) -> None:
        """Stay in eval mode; raises InvalidValueError where told otherwise."""
        if model_training or batchnorm_training or dropout_training:
            raise InvalidValueError(f"{self.attack} attacks the model in eval mode: training mode cannot be set")

    def save(self, *args: Any, **settings: Any) -> Any:
        """As torchattacks, leaving the model as it was found."""
        with calling.frozen(self.model):
            return super().save(*args, **settings)

    def _threat(self) -> ThreatModel:
        """Made at every call, because users of torchattacks set `eps` on the attack."""
        return threat_of(self.norm, self.eps, choices="Linf or L2")


def _behind(first: nn.Module, model: nn.Module) -> nn.Module:
    """`model` that sees what `first` makes of its images; of an ensemble, every member and the gate do."""
    if not isinstance(model, Ensemble):
        return nn.Sequential(first, model)
    members = [nn.Sequential(first, member) for member in model.members]
    gate = None if model.gate is None else nn.Sequential(first, model.gate)
    return Ensemble(members, aggregation=model.aggregation, gate=gate)
