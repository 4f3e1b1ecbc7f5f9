"""Prunes a trained network at once by magnitude, and gives its batch normalisations the statistics of what is left."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from st3.plan import SparsityPlan
from st3.registry import attach

METHOD = "one-shot"
"""What a checkpoint names as its method; it is none that could train."""

_MAGNITUDE = "ste"  # a hard threshold: what is kept keeps its value


def prune_at_once(model: nn.Module, plan: SparsityPlan) -> dict[str, tuple[str, str]]:
    """Set the smallest magnitudes to zero, in place; the plan's pattern and scope say which count together.

    Returns:
        Per prunable layer its pattern and, where it stays dense, the reason.
    """
    pruner = attach(model, plan, _MAGNITUDE)
    pruner.step(1.0)
    pruner.bake()
    return pruner.patterns


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> int:
    """Measure every batch normalisation's mean and variance anew, in place; labels are not looked at.

    Pruning changes what a layer hands on, and the stored statistics are still the dense network's. The new ones are the
    plain mean over all batches; everything else of the model, its dropout too, works as at inference.

    Args:
        model: baked; its modes and momenta are restored.
        batches: normalised training pictures, where the model is.

    Returns:
        Pictures that were looked at: none where there is no batch normalisation.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d) and module.track_running_stats]
    if not norms:
        return 0
    modes = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches, not a moving one
    seen = 0
    for images, _ in batches:
        model(images)
        seen += len(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, mode in modes.items():
        module.training = mode
    return seen
