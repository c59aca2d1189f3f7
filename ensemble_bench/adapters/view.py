"""A view of a model that a foreign toolkit may attack without changing the model."""

from collections.abc import Callable, Iterator

from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call


class AttackView(nn.Module):
    """The model in eval mode, differentiable in its input only.

    Toolkits put models into train mode, leave them there after an exception, and clear or write the `.grad` of
    their parameters. Through this view none of that reaches the model: its mode and its gradients stay as they
    were found. `parameters()` share the model's weights, so that toolkits find the device; `to()` moves the model.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        # In a tuple, so that it is no submodule: whatever walks over submodules shall not find the model.
        self._model = (model,)
        self.training = False

    def train(self, mode: bool = True) -> "AttackView":
        """Stay in eval mode, whatever `mode` says."""
        return self

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Aliases of the model's parameters: the same weights, no gradients."""
        for name, parameter in self._model[0].named_parameters(prefix, recurse, remove_duplicate):
            yield name, nn.Parameter(parameter.detach(), requires_grad=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "AttackView":
        self._model[0]._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def forward(self, x: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch class"]:
        """Logits of images in [0, 1]: the log mean member probability of an ensemble."""
        (model,) = self._model
        state = {name: value.detach() for name, value in (*model.named_parameters(), *model.named_buffers())}
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            logits: Tensor = functional_call(model, state, (x,))
        finally:
            for module, training in modes:
                module.training = training
        return logits
