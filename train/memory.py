"""Training pictures that lie on the device as bytes and are augmented there, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias, final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from runtime.data import Preprocessing
from train.dataset import Dataset
from train.seeds import generator

Augment: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]
Pictures: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.int64]]


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
        self._images = torch.from_numpy(pictures[0])
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
        """See ``Dataset``; the pictures move to the device once."""
        self._images, self._labels = self._images.to(device), self._labels.to(device)
        mean = torch.tensor(self.preprocessing.mean, device=device).reshape(-1, 1, 1)
        std = torch.tensor(self.preprocessing.std, device=device).reshape(-1, 1, 1)
        whole = order[: len(order) // batch_size * batch_size].reshape(-1, batch_size).to(device)
        for number, indices in enumerate(whole):
            random = generator(device, seed, "augment", first_step + number)
            images = self._augment(self._images[indices].float(), random)
            part = batch_size // shard[1]
            own = slice(shard[0] * part, (shard[0] + 1) * part)
            yield (images[own] / 255 - mean) / std, self._labels[indices[own]]

    def plain(self, indices: Tensor, device: torch.device, batch_size: int = 250) -> Iterator[tuple[Tensor, Tensor]]:
        """See ``Dataset``."""
        self._images, self._labels = self._images.to(device), self._labels.to(device)
        mean = torch.tensor(self.preprocessing.mean, device=device).reshape(-1, 1, 1)
        std = torch.tensor(self.preprocessing.std, device=device).reshape(-1, 1, 1)
        for chosen in torch.split(indices.to(device), batch_size):
            yield (self._images[chosen].float() / 255 - mean) / std, self._labels[chosen]

    def evaluation(self) -> Pictures:
        """See ``Dataset``."""
        return self._read_evaluation()


def flip(images_BCHW: Tensor, random: torch.Generator) -> Tensor:
    """Mirror half of the pictures left to right."""
    chosen = torch.rand(len(images_BCHW), 1, 1, 1, device=images_BCHW.device, generator=random) < 0.5
    return torch.where(chosen, images_BCHW.flip(3), images_BCHW)


def crop(images_BCHW: Tensor, padding: int, random: torch.Generator) -> Tensor:
    """Shift each picture by up to ``padding`` pixels; the rim repeats the edge."""
    count, _, height, width = images_BCHW.shape
    device = images_BCHW.device
    padded = F.pad(images_BCHW, (padding,) * 4, mode="replicate")
    top, left = torch.randint(2 * padding + 1, (2, count, 1, 1), device=device, generator=random)
    rows = top + torch.arange(height, device=device)[:, None]
    columns = left + torch.arange(width, device=device)
    picture = torch.arange(count, device=device)[:, None, None]
    return padded[picture, :, rows, columns].permute(0, 3, 1, 2)
