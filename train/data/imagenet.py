"""ImageNet (ILSVRC 2012) from folders of pictures: ``train/<class>/*.JPEG`` and ``val/<class>/*.JPEG``."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from runtime.data import Preprocessing
from runtime.errors import UserError
from train.crops import random_crops
from train.dali import DaliLoader, require_dali
from train.dataset import Dataset, part_of_batches
from train.seeds import derive

_SIDE = 224
_PREPROCESSING = Preprocessing(
    shape=(3, _SIDE, _SIDE), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=256
)
_GET = (
    "get ILSVRC 2012 from image-net.org and put it there as one folder per class; --data names the folder that holds "
    "train and val"
)
_PREFETCHED = 4
"""Batches that each worker has ready, so that a slow picture does not stop the network."""

_Place: TypeAlias = tuple[int, int, int]
"""Index of a picture, its place in the run, a seed: all that its augmentation follows from."""


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
            raise UserError(f"{folder / part} holds no ImageNet pictures: {_GET}") from error
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
        self._order = _Order()
        self._loader: DataLoader[Any] | None = None
        self._dali = False

    def batches(
        self,
        order: Tensor,
        batch_size: int,
        first_step: int,
        seed: int,
        device: torch.device,
        shard: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See ``Dataset``; the workers live as long as the data set, so that an epoch does not begin with waiting."""
        indices, places = part_of_batches(order, batch_size, first_step, shard)
        drawn = derive(seed, "augment")
        if self._dali:
            yield from DaliLoader(self._train, self.preprocessing, _GET).batches(indices, places, drawn, device)
            return
        self._order.batches = (indices, places, drawn)
        if self._loader is None:
            self._loader = DataLoader(
                _Augmented(self._train),
                batch_sampler=self._order,
                num_workers=workers(),
                pin_memory=device.type == "cuda",
                prefetch_factor=_PREFETCHED,
                persistent_workers=True,
                worker_init_fn=_outlast_sigterm,
            )
        yield from _normalised(self._loader, device)

    def with_dali(self) -> Dataset:
        """See ``Dataset``; the same parts of the same pictures, resized with other rounding."""
        require_dali()
        loaded = _ImageFolders(self._train, self._val)
        loaded._dali = True
        return loaded

    def plain(self, indices: Tensor, device: torch.device, batch_size: int = 250) -> Iterator[tuple[Tensor, Tensor]]:
        """See ``Dataset``."""
        numbers = indices.tolist()
        batches = [numbers[first : first + batch_size] for first in range(0, len(numbers), batch_size)]
        loader = DataLoader(
            _Centred(self._train), batch_sampler=batches, num_workers=workers(), worker_init_fn=_outlast_sigterm
        )
        yield from _normalised(loader, device)

    def evaluation(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """See ``Dataset``; 7.5 GB, so they are collected in a file, not in memory."""
        count = len(self._val)
        labels = np.empty(count, np.int64)
        with tempfile.TemporaryFile() as stream:
            stream.truncate(count * 3 * _SIDE * _SIDE)
            images = np.memmap(stream, np.uint8, "r+", shape=(count, 3, _SIDE, _SIDE))
        start = 0
        for batch, batch_labels in _reported(DataLoader(_Centred(self._val), 64, num_workers=workers())):
            images[start : start + len(batch)] = batch.numpy()
            labels[start : start + len(batch)] = batch_labels.numpy()
            start += len(batch)
        return images, labels


def workers() -> int:
    """Worker processes of this process: its share of the cores, where torchrun started several on this machine."""
    cores = len(os.sched_getaffinity(0))
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _outlast_sigterm(number: int) -> None:
    """In a worker: a scheduler's SIGTERM reaches all processes, and the trainer needs its workers to end its step."""
    del number
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@final
class _Order:
    """The batches of the next epoch; only this side of the loader sees it, so living workers need not be told."""

    batches: tuple[Tensor, Tensor, int]

    def __iter__(self) -> Iterator[list[_Place]]:
        indices, places, seed = self.batches
        for some, their_places in zip(indices, places, strict=True):
            yield [(index, place, seed) for index, place in zip(some.tolist(), their_places.tolist(), strict=True)]

    def __len__(self) -> int:
        return len(self.batches[0])


@final
class _Augmented(TorchDataset[tuple[Tensor, int]]):
    def __init__(self, folder: Any) -> None:
        self._folder = folder

    def __getitem__(self, place: _Place) -> tuple[Tensor, int]:
        from torchvision.transforms.v2 import functional

        index, number, seed = place
        image, label = _decoded(self._folder, index)
        size = torch.tensor([[image.height], [image.width]])
        boxes, mirrored = random_crops(seed, torch.tensor([number]), *size)
        # cut and shrunk before it becomes a tensor: a whole picture need not be copied
        image = functional.resized_crop(image, *boxes[0].tolist(), [_SIDE, _SIDE], antialias=True)
        if mirrored:
            image = functional.horizontal_flip(image)
        return functional.pil_to_tensor(image), label


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
        image, label = _decoded(self._folder, number)
        return self._transform(image), label


def _decoded(folder: Any, index: int) -> tuple[Any, int]:
    try:
        image, label = folder[index]
    except (OSError, SyntaxError) as error:  # what Pillow raises for a broken file
        raise UserError(f"{folder.samples[index][0]} is missing or damaged ({error}): {_GET}") from error
    return image, label


def _reported(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's batches; a user's error in a worker without the worker's traceback around it."""
    try:
        yield from loader
    except UserError as error:
        raise UserError(str(error).strip().splitlines()[-1].partition("UserError: ")[2]) from error


def _normalised(loader: DataLoader[Any], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    mean = torch.tensor(_PREPROCESSING.mean, device=device).reshape(-1, 1, 1)
    std = torch.tensor(_PREPROCESSING.std, device=device).reshape(-1, 1, 1)
    for images, labels in _reported(loader):
        pictures = images.to(device, non_blocking=True).float()
        yield (pictures / 255 - mean) / std, labels.to(device, non_blocking=True)
