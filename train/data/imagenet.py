"""ImageNet (ILSVRC 2012) from folders of pictures: ``train/<class>/*.JPEG`` and ``val/<class>/*.JPEG``."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from runtime.data import Preprocessing
from runtime.errors import UserError
from train.dataset import Dataset
from train.seeds import derive

_SIDE = 224
_PREPROCESSING = Preprocessing(
    shape=(3, _SIDE, _SIDE), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=256
)


def load(folder: Path) -> Dataset:
    """Open the two folders.

    Raises:
        UserError: a folder is missing or holds no pictures, or the two do not hold the same classes.
    """
    from torchvision.datasets import ImageFolder

    parts = []
    for part in ("train", "val"):
        try:
            parts.append(ImageFolder(str(folder / part)))
        except OSError as error:
            raise UserError(
                f"{folder / part} holds no ImageNet pictures: get ILSVRC 2012 from image-net.org and put it there as "
                f"one folder per class; --data names the folder that holds train and val"
            ) from error
    train, val = parts
    if train.classes != val.classes:
        raise UserError(f"{folder}: train and val hold different classes ({len(train.classes)}, {len(val.classes)})")
    return _ImageFolders(train, val)


@final
class _ImageFolders(Dataset):
    """Decoded and augmented by worker processes: random resized crop and flip to train, a centre crop to evaluate."""

    name = "imagenet/val"
    preprocessing = _PREPROCESSING

    def __init__(self, train: Any, val: Any) -> None:
        self.classes = tuple(train.classes)
        self.size = len(train)
        self._train, self._val = train, val

    def batches(
        self,
        order: Tensor,
        batch_size: int,
        first_step: int,
        seed: int,
        device: torch.device,
        shard: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See ``Dataset``; the augmentation of a picture follows from the seed and its place in the run."""
        assert shard == (0, 1)
        first = first_step * batch_size
        pairs = list(zip(order.tolist(), range(first, first + len(order)), strict=True))
        mean = torch.tensor(self.preprocessing.mean, device=device).reshape(-1, 1, 1)
        std = torch.tensor(self.preprocessing.std, device=device).reshape(-1, 1, 1)
        loader = DataLoader(
            _Augmented(self._train, pairs, seed),
            batch_size,
            drop_last=True,
            num_workers=os.cpu_count() or 1,
            pin_memory=device.type == "cuda",
        )
        for images, labels in loader:
            pictures = images.to(device, non_blocking=True).float()
            yield (pictures / 255 - mean) / std, labels.to(device, non_blocking=True)

    def evaluation(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """See ``Dataset``; 7.5 GB, so they are collected in a file, not in memory."""
        count = len(self._val)
        labels = np.empty(count, np.int64)
        with tempfile.TemporaryFile() as stream:
            stream.truncate(count * 3 * _SIDE * _SIDE)
            images = np.memmap(stream, np.uint8, "r+", shape=(count, 3, _SIDE, _SIDE))
        start = 0
        for batch, batch_labels in DataLoader(_Centred(self._val), 64, num_workers=os.cpu_count() or 1):
            images[start : start + len(batch)] = batch.numpy()
            labels[start : start + len(batch)] = batch_labels.numpy()
            start += len(batch)
        return images, labels


@final
class _Augmented(TorchDataset[tuple[Tensor, int]]):
    def __init__(self, folder: Any, pairs: list[tuple[int, int]], seed: int) -> None:
        from torchvision.transforms import v2

        self._folder, self._pairs, self._seed = folder, pairs, seed
        self._transform = v2.Compose(
            [v2.PILToTensor(), v2.RandomResizedCrop(_SIDE, antialias=True), v2.RandomHorizontalFlip()]
        )

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        index, place = self._pairs[number]
        image, label = self._folder[index]
        torch.manual_seed(derive(self._seed, "augment", place))  # in a worker process, so it disturbs nobody
        return self._transform(image), label


@final
class _Centred(TorchDataset[tuple[Tensor, int]]):
    def __init__(self, folder: Any) -> None:
        from torchvision.transforms import v2

        self._folder = folder
        self._transform = v2.Compose(
            [v2.Resize(_PREPROCESSING.resize, antialias=True), v2.CenterCrop(_SIDE), v2.PILToTensor()]
        )

    def __len__(self) -> int:
        return len(self._folder)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        image, label = self._folder[number]
        return self._transform(image), label
