"""Our attacks as an evasion attack of the Adversarial Robustness Toolbox (Nicolae et al. 2018)."""

from typing import Any

import numpy as np
from art.attacks import EvasionAttack
from art.estimators.classification import PyTorchClassifier

from ensemble_bench import attacks
from ensemble_bench.adapters.arguments import threat_of
from ensemble_bench.adapters.art_classifier import ViewClassifier, images_of, labels_of, network_of
from ensemble_bench.attacks import engine
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.models import calling
from ensemble_bench.models.entry import entered_once

SPELLED = "np.inf or 2"  # how ART writes the norms


class EngineAttack(EvasionAttack):  # type: ignore[misc]
    """Any attack of ours, untargeted, on any ART classifier of images in [0, 1] that runs in PyTorch.

    `attack` is a name such as "mora100", or an attack such as `eb.attacks.get("pgd20", stop_early=False)`; `eps` is in
    units of the pixel range. A classifier of `adapters.art.classifier` is attacked as the ensemble that it is, another
    one as a single network, behind its preprocessing. The model is left as it was found, and every call of `generate`
    draws the same noise: it returns what the attack does when called directly.

    Raises UnknownNameError for an attack that does not exist; InvalidValueError for another norm, eps or batch size,
    for clip values other than (0, 1), for preprocessing that is not written in PyTorch, and for an estimator that makes
    something else of its network's answers, as randomized smoothing does.
    """

    attack_params = (*EvasionAttack.attack_params, "attack", "eps", "norm", "batch_size", "seed")
    _estimator_requirements = (PyTorchClassifier,)

    def __init__(
        self,
        estimator: PyTorchClassifier,
        attack: str | attacks.Attack = "mora100",
        *,
        eps: float = 8 / 255,
        norm: Any = np.inf,
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(estimator=estimator)
        self.attack, self.eps, self.norm = attack, eps, norm
        self.batch_size, self.seed = batch_size, seed
        self._check_params()

    def generate(self, x: Any, y: Any = None) -> Any:
        """Adversarial images for an array of images in [0, 1], in its dtype.

        `y` holds class numbers or one-hot rows; without it the model's own predictions are to be changed.
        """
        model, images = network_of(self.estimator), images_of(self.estimator, x)
        if y is None:
            judge = entered_once(model, images).judge
            with calling.frozen(judge):
                labels = engine.Worker(judge, self.batch_size).logits(images, images.new_zeros(0)).argmax(dim=1)
        else:
            labels = labels_of(self.estimator, y)
        x_adv = self._attack(model, images, labels, self._threat, seed=self.seed, batch_size=self.batch_size)
        return x_adv.cpu().numpy().astype(np.asarray(x).dtype, copy=False)

    def _check_params(self) -> None:
        if type(self.estimator).predict not in (PyTorchClassifier.predict, ViewClassifier.predict):
            raise InvalidValueError(
                f"estimator is a {type(self.estimator).__name__}, whose answers are not its network's own: give a "
                "classifier of that network, or take an attack of ART"
            )
        network_of(self.estimator)
        engine.Budget(seed=self.seed, batch_size=self.batch_size)  # raises for a size that no attack can take
        self._threat = threat_of(self.norm, self.eps, choices=SPELLED)
        self._attack = attacks.get(self.attack) if isinstance(self.attack, str) else self.attack
