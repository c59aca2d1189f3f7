"""Our training as a trainer of the Adversarial Robustness Toolbox (Nicolae et al. 2018)."""

from typing import Any, cast

import numpy as np
import torch
from art.defences.trainer import Trainer
from art.estimators.classification import PyTorchClassifier
from torch import Tensor

from ensemble_bench.adapters.arguments import threat_of
from ensemble_bench.adapters.art_attack import SPELLED
from ensemble_bench.adapters.art_classifier import images_of, labels_of, network_of, optimizer_of
from ensemble_bench.attacks import engine
from ensemble_bench.errors import InvalidValueError, UnknownNameError, check_whole
from ensemble_bench.models.calling import modes_kept
from ensemble_bench.models.ensemble import Ensemble, Single, as_ensemble
from ensemble_bench.models.entry import entered_once
from ensemble_bench.randomness import generator
from ensemble_bench.training.algorithm1 import algorithm1
from ensemble_bench.training.attack import STARTS, check_name, perturb
from ensemble_bench.training.batches import Batches
from ensemble_bench.training.objectives import LOSSES, objective_of
from ensemble_bench.training.state import TrainingState


class EnsembleTrainer(Trainer):  # type: ignore[misc]
    """Algorithm 1 of Grefenstette et al. (2018) on arrays: adversarial images against the whole ensemble, ½ and ½.

    `classifier` has an optimizer; its learning rate changes only as a scheduler says. `eps` is in units of the pixel
    range; `train_attack` is "ifgsmN" or "nfgsm", `attack_start` "uniform", "gaussian" or "none"; `objective` is
    "ensemble", "member-mean" or "adp"; `flip` and `crop` (pixels) augment the images. Order, augmentation and noise
    depend on `seed` and the number of steps taken alone, so that two calls of `fit` go on as one.

    Raises UnknownNameError for a name that does not exist, InvalidValueError for other values that are out of range, a
    classifier without an optimizer, or an objective of members for a network that has none.
    """

    def __init__(
        self,
        classifier: PyTorchClassifier,
        *,
        eps: float = 8 / 255,
        norm: Any = np.inf,
        train_attack: str = "ifgsm7",
        attack_start: str = "uniform",
        objective: str = "ensemble",
        flip: bool = False,
        crop: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(classifier)
        self._model = cast(Ensemble, network_of(classifier))
        self._optimizer, self._threat = optimizer_of(classifier), threat_of(norm, eps, choices=SPELLED)
        dtype = next((p.dtype for p in self._model.parameters() if p.is_floating_point()), torch.float32)
        if dtype != torch.float32:
            raise InvalidValueError(f"the classifier's network is {dtype}: only torch.float32 can be trained")
        if attack_start not in STARTS:
            raise InvalidValueError(f"attack_start is {attack_start!r}: choose from {', '.join(STARTS)}")
        if objective not in LOSSES:
            raise UnknownNameError("objective", objective, LOSSES)
        if objective != "ensemble" and isinstance(as_ensemble(self._model), Single):
            raise InvalidValueError(f"objective is {objective!r}: the classifier's network has no members")
        self.train_attack, self.attack_start = check_name(train_attack), attack_start
        self.objective, self.flip, self.crop, self.seed = objective, flip, crop, seed
        self._state = TrainingState()

    def fit(self, x: Any, y: Any, nb_epochs: int = 20, batch_size: int = 128, scheduler: Any = None) -> None:
        """Train for `nb_epochs` on images (n, channel, row, column) in [0, 1] with class numbers or one-hot rows.

        The last, incomplete batch of an epoch is left out. `scheduler` takes a step after every epoch. Raises
        InvalidValueError for images, labels or sizes out of range, AttackError when the loss stops being finite, and
        for a network whose answers in eval mode depend on the other images of the batch.
        """
        images, labels = images_of(self.classifier, x), labels_of(self.classifier, y)
        engine.validate(images, labels, torch.arange(len(images)))
        if images.dim() != 4:
            raise InvalidValueError(f"x has shape {tuple(images.shape)}: expected (n, channel, row, column)")
        check_whole("nb_epochs", nb_epochs, least=1)
        check_whole("batch_size", batch_size, least=2, most=len(images))  # batch norm needs two images
        # What lies beyond an edge is a reflection, and there is but one of every pixel.
        check_whole("crop", self.crop, most=2 * (min(images.shape[2:]) - 1))
        batches = Batches(
            images=images.permute(0, 2, 3, 1).contiguous(),
            labels=labels,
            scale=1,
            batch_size=batch_size,
            seed=self.seed,
            flip=self.flip,
            crop=self.crop,
        )
        entered_once(self._model, images)
        first = self._state.step
        with modes_kept(self._model):
            self._model.train()
            for step in algorithm1(
                self._model,
                self._optimizer,
                self._state,
                steps=first + nb_epochs * batches.per_epoch,
                sample=batches.at,
                attack=self._attack,
                objective=objective_of(self.objective),
            ):
                if scheduler is not None and (step - first) % batches.per_epoch == 0:
                    scheduler.step()
        self._state.settle()

    def _attack(self, x: Tensor, y: Tensor, step: int) -> Tensor:
        """x_adv against the whole network, with noise that depends on (seed, step) alone."""
        noise = generator(x.device, "attack", self.seed, step)
        return perturb(self.train_attack, self._model, x, y, self._threat, generator=noise, start=self.attack_start)
