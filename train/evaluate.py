"""Accuracy and loss of a baked model on the evaluation set."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from runtime.data import EvaluationSet


@torch.no_grad()
def evaluate(
    model: nn.Module, evaluation: EvaluationSet, device: torch.device, batch_size: int = 250
) -> tuple[float, float]:
    """Top-1 accuracy in [0, 1] and mean cross-entropy over all pictures."""
    training = model.training
    model.eval()
    correct, loss = 0, 0.0
    for images, labels in evaluation.batches(batch_size):
        logits = model(torch.from_numpy(images).to(device, memory_format=torch.channels_last)).float()
        target = torch.from_numpy(labels).to(device)
        correct += int((logits.argmax(1) == target).sum())
        loss += float(F.cross_entropy(logits, target, reduction="sum"))
    model.train(training)
    return correct / len(evaluation), loss / len(evaluation)
