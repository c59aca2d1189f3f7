"""What the Adversarial Robustness Toolbox (Nicolae et al. 2018) is handed, and what we take from its estimators."""

from typing import Any

import numpy as np
import torch
from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing
from art.estimators.classification import PyTorchClassifier
from art.preprocessing.standardisation_mean_std.pytorch import StandardisationMeanStdPyTorch
from jaxtyping import Float, Int64
from scipy.stats import binomtest
from torch import Tensor, nn

from ensemble_bench.adapters.view import AttackView
from ensemble_bench.errors import InvalidValueError


class ViewClassifier(PyTorchClassifier):  # type: ignore[misc]
    """ART's classifier over a view of a model, which nothing but `fit` changes.

    Predictions and gradients are those of eval mode, whatever `training_mode` says. `predict` draws nothing from the
    global generator, as ART's own does for its data loader.
    """

    def predict(self, x: Any, batch_size: int = 128, training_mode: bool = False, **kwargs: Any) -> Any:
        """Logits, float32, of an array of images."""
        x, _ = self._apply_preprocessing(_plain(x), y=None, fit=False)
        self._model.eval()
        with torch.no_grad():
            logits = [self.model(part.to(self.device)) for part in torch.split(torch.from_numpy(x), batch_size)]
        return self._apply_postprocessing(torch.cat(logits).float().cpu().numpy(), fit=False)

    def loss_gradient(self, x: Any, y: Any, training_mode: bool = False, **kwargs: Any) -> Any:
        """Gradient of the batch's mean loss with respect to `x`, in its dtype."""
        return super().loss_gradient(_plain(x), y, training_mode=False, **kwargs)

    def class_gradient(self, x: Any, label: Any = None, training_mode: bool = False, **kwargs: Any) -> Any:
        """Gradients of the logits with respect to `x`."""
        return super().class_gradient(_plain(x), label, training_mode=False, **kwargs)

    def fit(self, x: Any, y: Any, *args: Any, **kwargs: Any) -> None:
        """Train the model; raises InvalidValueError without an optimizer."""
        self._train(super().fit, x, y, *args, **kwargs)

    def fit_generator(self, generator: Any, *args: Any, **kwargs: Any) -> None:
        """Train the model; raises InvalidValueError without an optimizer."""
        self._train(super().fit_generator, generator, *args, **kwargs)

    def reset(self) -> None:
        """Draw new weights; raises InvalidValueError without an optimizer."""
        self._train(super().reset)

    def _train(self, method: Any, *args: Any, **kwargs: Any) -> None:
        optimizer_of(self)
        try:
            method(*args, **kwargs)
        finally:
            self._model.eval()


class SmoothedClassifier(ViewClassifier, PyTorchRandomizedSmoothing):  # type: ignore[misc]
    """ART's randomized smoothing (Cohen et al. 2019) over such a view."""

    predict = PyTorchRandomizedSmoothing.predict

    def _predict_classifier(self, x: Any, batch_size: int, training_mode: bool, **kwargs: Any) -> Any:
        return ViewClassifier.predict(self, x.astype(np.float32), batch_size)

    def _lower_confidence_bound(self, n_class_samples: int, n_total_samples: int) -> float:
        # ART asks statsmodels, which it does not depend on, for the same bound (Clopper & Pearson 1934).
        test = binomtest(int(n_class_samples), n_total_samples)
        return float(test.proportion_ci(1 - 2 * self.alpha, method="exact").low)


class _Preprocessed(nn.Module):
    """The network of an estimator behind its preprocessing."""

    def __init__(self, estimator: PyTorchClassifier) -> None:
        super().__init__()
        self.model, self.estimator = estimator.model, estimator

    def forward(self, x: Float[Tensor, "batch *image"]) -> Float[Tensor, "batch class"]:
        """Logits of images in [0, 1]."""
        x, _ = self.estimator._apply_preprocessing(x, y=None, fit=False, no_grad=False)
        logits: Tensor = self.model(x)
        return logits


def network_of(estimator: PyTorchClassifier) -> nn.Module:
    """Model behind an ART classifier, of ours with its members in sight; it maps images in [0, 1] to logits.

    Raises InvalidValueError for clip values other than (0, 1), and for preprocessing that is not written in torch.
    """
    clip = estimator.clip_values
    if clip is None or np.any(clip[0] != 0) or np.any(clip[1] != 1):
        shown = None if clip is None else tuple(np.asarray(clip).tolist())
        raise InvalidValueError(f"clip_values of the estimator are {shown}: expected (0, 1)")
    if all(_changes_nothing(operation) for operation in estimator.preprocessing_operations):
        model: nn.Module = estimator.model
        return model.model if isinstance(model, AttackView) else model
    if not estimator.all_framework_preprocessing:
        names = ", ".join(type(operation).__name__ for operation in estimator.preprocessing_operations)
        raise InvalidValueError(f"preprocessing of the estimator is {names}: expected operations written in PyTorch")
    return _Preprocessed(estimator)


def optimizer_of(estimator: PyTorchClassifier) -> torch.optim.Optimizer:
    """Optimizer of an ART classifier; raises InvalidValueError where there is none."""
    if estimator.optimizer is None:
        raise InvalidValueError(
            "the classifier has no optimizer and cannot be trained: make it as classifier(model, optimizer=…)"
        )
    optimizer: torch.optim.Optimizer = estimator.optimizer
    return optimizer


def images_of(estimator: PyTorchClassifier, x: Any) -> Float[Tensor, "batch *image"]:
    """Array of images as the estimator's network takes them; raises InvalidValueError for another shape or kind."""
    x, shape = np.asarray(x), tuple(estimator.input_shape)
    if not np.issubdtype(x.dtype, np.floating) or x.shape[1:] != shape:
        raise InvalidValueError(f"x is {x.dtype} of shape {x.shape}: expected floating point of shape {('n', *shape)}")
    dtype = next((p.dtype for p in estimator.model.parameters() if p.is_floating_point()), None)
    # A network in half precision takes images in single precision, whose rounding does not leave the ball.
    dtype = None if dtype is None else torch.promote_types(dtype, torch.float32)
    return torch.from_numpy(_plain(x)).to(estimator.device, dtype)


def labels_of(estimator: PyTorchClassifier, y: Any) -> Int64[Tensor, "batch"]:
    """Labels of class numbers or one-hot rows; raises InvalidValueError for anything else."""
    y, classes = np.asarray(y), estimator.nb_classes
    if y.ndim == 2 and y.shape[1] == classes and np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all():
        y = y.argmax(axis=1)
    if y.ndim != 1 or not np.isin(y, np.arange(classes)).all():
        raise InvalidValueError(
            f"y is {y.dtype} of shape {y.shape}: expected classes 0 to {classes - 1}, or one-hot rows"
        )
    return torch.from_numpy(y.astype(np.int64)).to(estimator.device)


def _plain(x: Any) -> Any:
    """An array as torch takes it: in order, as it has no negative strides, and not read-only, of which it warns."""
    return np.require(x, requirements=["C", "W"]) if isinstance(x, np.ndarray) else x


def _changes_nothing(operation: Any) -> bool:
    """Whether preprocessing is of training alone, or what ART adds by default: minus 0, over 1."""
    if isinstance(operation, StandardisationMeanStdPyTorch):
        return not operation.mean.any() and bool((operation.std == 1).all())
    return not operation.apply_predict
