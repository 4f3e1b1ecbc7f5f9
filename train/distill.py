"""The loss: cross-entropy, and where there is a teacher, the distance to its answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from runtime.data import Preprocessing
from runtime.errors import UserError
from st3.checkpoint import WEIGHT_FILE, load_checkpoint
from train.recipe import Recipe

Network: TypeAlias = Callable[[Tensor], Tensor]


def distillation(student_BC: Tensor, teacher_BC: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(teacher || student)`` of logits divided by T, mean over the batch (Hinton et al. 2015, section 2)."""
    student, teacher = F.log_softmax(student_BC / temperature, 1), F.log_softmax(teacher_BC / temperature, 1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def loss_of(logits_BC: Tensor, labels_B: Tensor, teacher_BC: Tensor | None, recipe: Recipe) -> Tensor:
    """The recipe's loss, a scalar: ``(1 - a)`` cross-entropy ``+ a`` distillation with a teacher."""
    loss = F.cross_entropy(logits_BC, labels_B, label_smoothing=recipe.label_smoothing)
    if teacher_BC is None:
        return loss
    distance = distillation(logits_BC, teacher_BC, recipe.temperature)
    return (1 - recipe.teacher_weight) * loss + recipe.teacher_weight * distance


def teacher_digest(folder: Path, preprocessing: Preprocessing, classes: tuple[str, ...]) -> str:
    """Digest of a teacher's weights.

    Raises:
        UserError: the folder is no checkpoint, or one of another data set.
    """
    info = load_checkpoint(folder).info
    if info.preprocessing != preprocessing or info.classes != classes:
        raise UserError(
            f"the teacher {folder} was trained for {info.evaluation} with {len(info.classes)} classes and other "
            f"preprocessing; give a checkpoint of the same data set"
        )
    return info.files[WEIGHT_FILE]


def load_teacher(folder: Path, device: torch.device) -> Network:
    """The checkpoint's network in eval mode on a device; it takes no gradient."""
    module = load_checkpoint(folder, verify=False).exported_program().module().to(device)
    for parameter in module.parameters():
        parameter.requires_grad_(False)

    def answer(images: Tensor) -> Tensor:
        with torch.no_grad():
            logits = module(images)
            assert isinstance(logits, Tensor)
            return logits

    return answer
