"""The optimiser: SGD with weight decay on the weights that a method may prune."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from st3.layers import PROJECTIONS, prunable_layers
from st3.pruner import Pruner
from train.recipe import Recipe


def make_optimizer(model: nn.Module, pruner: Pruner, recipe: Recipe, projections: bool = True) -> torch.optim.SGD:
    """SGD with weight decay on the (latent) weights of convolutions and linear layers, none on anything else.

    What a method brings of its own (learned thresholds) has a group and a weight decay of its own. On a GPU the
    update is one fused kernel, and the learning rate a tensor there, so that a captured graph can be given a new one.
    ``projections`` is ``train.state.State.projections``.
    """
    decayed = {
        id(parameter)
        for layer in prunable_layers(model).values()
        for name, parameter in layer.module.named_parameters()
        if name in (layer.leaf, f"parametrizations.{layer.leaf}.original")
        and (projections or layer.leaf not in PROJECTIONS)
    }
    brought = {id(parameter) for parameter in pruner.parameters()}
    parameters = [parameter for parameter in model.parameters() if id(parameter) not in brought]
    groups = [
        {"params": [p for p in parameters if id(p) in decayed], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
        {"params": list(pruner.parameters()), "weight_decay": pruner.weight_decay},
    ]
    fused = all(parameter.is_cuda for parameter in parameters)
    rate = torch.tensor(recipe.learning_rate, device=parameters[0].device) if fused else recipe.learning_rate
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        fused=fused,
    )


def set_rate(optimizer: torch.optim.SGD, rate: float) -> None:
    """Give every group a learning rate; a tensor is filled in place."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def momentum(optimizer: torch.optim.SGD, model: nn.Module) -> dict[str, Tensor]:
    """The momentum of each parameter that has one, by the parameter's name."""
    found = {}
    for name, parameter in model.named_parameters():
        buffer = optimizer.state[parameter].get("momentum_buffer")
        if buffer is not None:
            found[name] = buffer
    return found


def restore_momentum(optimizer: torch.optim.SGD, model: nn.Module, saved: dict[str, Tensor]) -> None:
    """Put back what ``momentum`` gave."""
    for name, parameter in model.named_parameters():
        if name in saved:
            # in the parameter's memory order, so that the update runs through the same vector code as before
            optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(saved[name])
