"""The unit in which costs compare: images pushed through a model, forward and backward."""

from jaxtyping import Float
from torch import Tensor, nn

from ensemble_bench.models.answers import logits_in
from ensemble_bench.models.randomised import calls_of


class Counted(nn.Module):
    """The model with the same answers, which counts the images of its forward and backward passes.

    `forwards` counts images, `backwards` images for whose logits a gradient came back. A second backward through the
    same answer counts again: FAB takes one a class. A mean over draws counts all of its calls.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._calls = calls_of(model)
        self.forwards = 0
        self.backwards = 0

    @property
    def passes(self) -> int:
        """Images forward plus images backward: the unit of `Outcome.passes`."""
        return self.forwards + self.backwards

    def forward(self, x: Float[Tensor, "batch *image"]) -> Float[Tensor, "batch class"]:
        """Logits of the model."""
        rows = self._calls * len(x)
        self.forwards += rows
        logits = logits_in(self.model(x), x)
        if logits.requires_grad:

            def count(_: Tensor) -> None:
                self.backwards += rows

            logits.register_hook(count)  # type: ignore[no-untyped-call]
        return logits
