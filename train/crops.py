"""Random resized crops as a pure function of seed and place, so that every loader cuts the same part of a picture."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from train.draws import draw, unit

_AREA = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)
_TRIES = 10
_DRAWS = 32
"""Numbers that a place may draw: two a try, two for the position, one for the mirror."""


def random_crops(seed: int, places: Tensor, heights: Tensor, widths: Tensor) -> tuple[Tensor, Tensor]:
    """What part of each picture is shown, and whether mirrored, which half of them are.

    Area and ratio are drawn as by torchvision's ``RandomResizedCrop`` with its defaults (Szegedy et al. 2015, arXiv
    1409.4842, section 6): the first of ten tries that fits into the picture, otherwise the middle.

    Args:
        seed: in [0, 2^63).
        places: of the pictures in the run, ``(B,)`` ``int64``; different places get independent crops.
        heights: of the pictures, ``(B,)`` ``int64``.
        widths: as ``heights``.

    Returns:
        Top, left, height and width ``(B, 4)`` ``int64``, and ``(B,)`` bool.
    """
    numbers = unit(draw(seed, places[:, None] * _DRAWS + torch.arange(2 * _TRIES + 3)))
    area = (heights * widths)[:, None] * _between(_AREA, numbers[:, :_TRIES])
    ratio = _between((math.log(_RATIO[0]), math.log(_RATIO[1])), numbers[:, _TRIES : 2 * _TRIES]).exp()
    tall, wide = (area / ratio).sqrt().round().long(), (area * ratio).sqrt().round().long()
    fits = (tall > 0) & (wide > 0) & (tall <= heights[:, None]) & (wide <= widths[:, None])
    first = fits.int().argmax(1, keepdim=True)
    fit = fits.any(1)
    # the largest part in the middle whose ratio is allowed
    height = torch.where(fit, tall.gather(1, first)[:, 0], torch.minimum(heights, (widths / _RATIO[0]).round().long()))
    width = torch.where(fit, wide.gather(1, first)[:, 0], torch.minimum(widths, (heights * _RATIO[1]).round().long()))
    top = torch.where(fit, (numbers[:, -3] * (heights - height + 1)).long(), (heights - height) // 2)
    left = torch.where(fit, (numbers[:, -2] * (widths - width + 1)).long(), (widths - width) // 2)
    return torch.stack([top, left, height, width], 1), numbers[:, -1] < 0.5


def _between(limits: tuple[float, float], numbers: Tensor) -> Tensor:
    low, high = limits
    return low + (high - low) * numbers
