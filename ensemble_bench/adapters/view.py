"""Views of a model that a foreign toolkit may attack, or train, without leaving anything else behind."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from ensemble_bench.models.answers import logits_in
from ensemble_bench.models.called import as_module
from ensemble_bench.models.calling import modes_kept, to_eval
from ensemble_bench.models.entry import Entered, entered_once


class AttackView(nn.Module):
    """The model in eval mode, differentiable in its input only.

    Toolkits put models into train mode, leave them there after an exception, and clear or write the `.grad` of
    their parameters. Through this view none of that reaches the model: its mode and its gradients stay as they
    were found. `parameters()` share the model's weights, so that toolkits find the device; `to()` moves the model.
    Where the model is `entering`, and nobody has looked at it, that is done when it is first called (models/entry.py).
    """

    def __init__(self, model: nn.Module, *, entering: bool = False) -> None:
        super().__init__()
        self._entering = entering
        # In a tuple, so that it is no submodule: whatever walks over submodules shall not find the model.
        self._model = (as_module(model),)
        self.training = False

    @property
    def model(self) -> nn.Module:
        """The model itself, for attacks that need its members."""
        return self._model[0]

    def train(self, mode: bool = True) -> "AttackView":
        """Stay in eval mode, whatever `mode` says."""
        return self

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Aliases of the model's parameters: the same weights, no gradients."""
        for name, parameter in self.model.named_parameters(prefix, recurse, remove_duplicate):
            yield name, nn.Parameter(parameter.detach(), requires_grad=False)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The model's, so that a toolkit saves its weights and not an empty file."""
        return self.model.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load into the model."""
        return self.model.load_state_dict(state_dict, strict, assign)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "AttackView":
        self.model._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def forward(self, x: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch class"]:
        """Logits of images in [0, 1]: the log mean member probability of an ensemble."""
        if self._entering:
            self._enter(entered_once(self.model, self._cast(x)))
            self._entering = False
        model = self.model
        state = {name: value.detach() for name, value in (*model.named_parameters(), *model.named_buffers())}
        with modes_kept(model):
            to_eval(model)
            # A copy: a model may write into what it is given.
            return logits_in(functional_call(model, state, (self._cast(x).clone(),)), x)

    def _enter(self, entered: Entered) -> None:
        """Nothing is changed of a model that was let in: some attacks want the probabilities of one that has them."""

    def _cast(self, x: Tensor) -> Tensor:
        """Images in the precision of the model: arrays are float64 by default, and some toolkits make them so."""
        return x.to(next((p.dtype for p in self.model.parameters() if p.is_floating_point()), x.dtype))


class TrainingView(AttackView):
    """A view that also learns: in train mode the parameters take gradients; in eval mode it is an `AttackView`.

    The mode is the view's own, and the model is in it for the length of a forward pass only.
    """

    def train(self, mode: bool = True) -> "TrainingView":
        """Change the mode of the view."""
        self.training = mode
        return self

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """The model's own parameters."""
        return self.model.named_parameters(prefix, recurse, remove_duplicate)

    def apply(self, fn: Callable[[nn.Module], Any]) -> "TrainingView":
        """Apply `fn` to the model's submodules, as toolkits do to reset the weights."""
        self.model.apply(fn)
        return self

    def forward(self, x: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch class"]:
        """Logits as those of `AttackView`; in train mode they depend on the parameters too."""
        if not self.training:
            return super().forward(x)
        with modes_kept(self.model):
            logits: Tensor = self.model.train()(self._cast(x))
        return logits
