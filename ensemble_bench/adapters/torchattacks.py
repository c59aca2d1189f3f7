"""Models for torchattacks (Kim 2020)."""

from torch import nn

from ensemble_bench.adapters.view import AttackView


def module(model: nn.Module) -> nn.Module:
    """Wrap `model` so that every `torchattacks.*` attack accepts it; images are in [0, 1].

    Any module that maps images to logits will do. The attack sees it in eval mode and differentiates it by its
    input only; the mode and the gradients of `model` stay as they are, also when an attack raises.
    """
    return AttackView(model)
