"""Accuracy and loss of a model on pictures that it was not trained on."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from runtime.data import EvaluationSet


@torch.no_grad()
def evaluate(
    model: nn.Module, evaluation: EvaluationSet, device: torch.device, batch_size: int = 250
) -> tuple[float, float]:
    """Top-1 accuracy in [0, 1] and mean cross-entropy of a baked model over all pictures."""
    training = model.training
    model.eval()
    correct, loss = torch.zeros(2, dtype=torch.float64, device=device)
    for images, labels in evaluation.batches(batch_size):
        logits = model(torch.from_numpy(images).to(device, memory_format=torch.channels_last)).float()
        target = torch.from_numpy(labels).to(device)
        correct += (logits.argmax(1) == target).sum()
        loss += F.cross_entropy(logits, target, reduction="sum")
    model.train(training)
    return float(correct) / len(evaluation), float(loss) / len(evaluation)


@torch.no_grad()
def accuracy_of(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Top-1 accuracy in [0, 1] on normalised pictures that lie where the model is."""
    training = model.training
    model.eval()
    with parametrize.cached():  # the weights stay what they are from batch to batch
        right = [model(images).argmax(1) == labels for images, labels in batches]
    model.train(training)
    return float(torch.cat(right).double().mean())
