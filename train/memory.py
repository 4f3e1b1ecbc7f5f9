"""Training pictures that lie on the device as bytes and are augmented there, several batches at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias, final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtime.data import Preprocessing
from train.dataset import Dataset, part_of_batches
from train.draws import below, draw
from train.seeds import derive

Pictures: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.int64]]

_TOGETHER_BYTES = {"cpu": 1 << 20, "cuda": 64 << 20}
"""Of normalised pictures made by one set of launches: these are what costs on a GPU; on a CPU the cache counts."""


class Augment(msgspec.Struct, frozen=True):
    """Shift each picture by up to ``padding`` pixels, the rim repeating the edge; then mirror half of them sideways."""

    padding: int = 0

    def sources(self, bits: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Where each pixel comes from.

        Args:
            bits: 64 random ones per picture, ``(B,)``.
            height: of the pictures.
            width: of the pictures.

        Returns:
            Source rows ``(B, height)`` and source columns ``(B, width)``.
        """
        shifts = 2 * self.padding + 1
        device = bits.device
        offsets = torch.arange(-self.padding, self.padding + 1, device=device)[:, None]
        rows = (offsets + torch.arange(height, device=device)).clamp(0, height - 1)
        columns = (offsets + torch.arange(width, device=device)).clamp(0, width - 1)
        columns = torch.cat([columns, columns.flip(1)])
        mirrored = (bits & 1) * shifts
        return rows[below(shifts, bits, 1)], columns[below(shifts, bits, 21) + mirrored]


flip = Augment()
"""Mirror half of the pictures, no shift."""


@final
class MemoryDataset(Dataset):
    """A data set that fits into memory; the evaluation pictures are read only when they are asked for."""

    on_device = True

    def __init__(
        self,
        name: str,
        preprocessing: Preprocessing,
        classes: tuple[str, ...],
        pictures: Pictures,
        read_evaluation: Callable[[], Pictures],
        augment: Augment,
    ) -> None:
        self.name = name
        self.preprocessing = preprocessing
        self.classes = classes
        self.size = len(pictures[1])
        # a pixel's channels side by side, so that one look-up finds them all
        self._images = torch.from_numpy(np.ascontiguousarray(pictures[0].transpose(0, 2, 3, 1)))
        self._labels = torch.from_numpy(pictures[1])
        self._read_evaluation = read_evaluation
        self._augment = augment

    def batches(
        self,
        order: Tensor,
        batch_size: int,
        first_step: int,
        seed: int,
        device: torch.device,
        shard: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See ``Dataset``; the pictures move to the device once, and nothing here waits for it."""
        self._to(device)
        count, height, width, channels = self._images.shape
        indices, places = (part.to(device) for part in part_of_batches(order, batch_size, first_step, shard))
        bits = draw(derive(seed, "augment"), places)
        factors = _factors(self.preprocessing, device)
        pixels = self._images.view(count * height * width, channels)
        part = max(1, indices.shape[1])
        together = max(1, _TOGETHER_BYTES[device.type] // (part * height * width * channels * 4))
        for first in range(0, len(indices), together):
            some = indices[first : first + together]
            rows, columns = self._augment.sources(bits[first : first + together].flatten(), height, width)
            rows = rows + some.flatten()[:, None] * height
            found = pixels[rows[:, :, None] * width + columns[:, None, :]]
            pictures, labels = _normalised(found, factors), self._labels[some]
            for number in range(len(some)):
                yield pictures[number * part : (number + 1) * part], labels[number]

    def plain(self, indices: Tensor, device: torch.device, batch_size: int = 250) -> Iterator[tuple[Tensor, Tensor]]:
        """See ``Dataset``."""
        self._to(device)
        factors = _factors(self.preprocessing, device)
        for first in range(0, len(indices), batch_size):
            chosen = indices[first : first + batch_size].to(device)
            yield _normalised(self._images[chosen], factors), self._labels[chosen]

    def evaluation(self) -> Pictures:
        """See ``Dataset``."""
        return self._read_evaluation()

    def _to(self, device: torch.device) -> None:
        self._images, self._labels = self._images.to(device), self._labels.to(device)


def _normalised(images_BHWC: Tensor, factors: tuple[Tensor, Tensor]) -> Tensor:
    """Float32 ``(B, C, H, W)`` whose channels lie side by side in memory."""
    scale, shift = factors
    return (images_BHWC * scale - shift).permute(0, 3, 1, 2)


def _factors(preprocessing: Preprocessing, device: torch.device) -> tuple[Tensor, Tensor]:
    """The two of ``Preprocessing.apply``, so that training and evaluation see the same numbers."""
    std = torch.tensor(preprocessing.std, dtype=torch.float64)
    scale = 1 / (255 * std)
    shift = torch.tensor(preprocessing.mean, dtype=torch.float64) / std
    return scale.float().to(device), shift.float().to(device)
