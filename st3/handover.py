"""From a training loop of the user's own to a checkpoint that `st3 compile` takes."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from runtime.data import Preprocessing
from runtime.errors import UserError
from st3.checkpoint import Checkpoint, stepless_info, write_checkpoint
from st3.pruner import Pruner
from st3.registry import find_method

_OWN = "own"
"""The name of the recipe and of the evaluation set, which are nobody's but the user's."""


def save(
    folder: str | Path,
    model: nn.Module,
    pruner: Pruner,
    shape: tuple[int, int, int],
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    classes: Sequence[str] = (),
    accuracy: float = 0.0,
    method: str = "st3",
) -> Checkpoint:
    """Write the checkpoint of a model that was trained in a loop of one's own.

    Args:
        folder: where to; a checkpoint that is there is replaced, anything else is not.
        model: baked (``pruner.bake()``); it takes ``float32`` pictures ``(B, C, H, W)``.
        pruner: what ``st3.attach`` gave.
        shape: ``(C, H, W)`` of a picture.
        mean: one number per channel: the model was given ``(x / 255 - mean) / std`` of pixels ``x``; zeros if left out.
        std: likewise; ones if left out.
        classes: their names, in the order of the model's outputs.
        accuracy: top-1 in [0, 1] as you measured it; for the records.
        method: the name that ``st3.attach`` was given.

    Raises:
        UserError: the model is not baked or cannot be exported, a number is out of its range, or the folder holds other
            things than a checkpoint.
    """
    find_method(method)
    if not 0 <= accuracy <= 1:
        raise UserError(f"accuracy is a fraction in [0, 1], got {accuracy:g}; 90 % is 0.9")
    channels = shape[0]
    try:
        preprocessing = Preprocessing(shape, tuple(mean) or (0.0,) * channels, tuple(std) or (1.0,) * channels)
    except ValueError as error:
        raise UserError(str(error)) from error
    info = stepless_info(
        pruner.plan,
        "dense" if method == "dense" else pruner.plan.pattern,
        recipe=_OWN,
        method=method,
        accuracy=accuracy,
        evaluation=_OWN,
        preprocessing=preprocessing,
        classes=tuple(classes),
        device="unknown",
        commit="unknown",
        versions={"python": platform.python_version(), "torch": importlib.metadata.version("torch")},
    )
    return write_checkpoint(Path(folder), model, info, pruner.patterns)
