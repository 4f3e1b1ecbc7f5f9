"""Data sets that lie as folders of pictures: ``train/<class>/*`` and ``val/<class>/*``."""

from __future__ import annotations

import math
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

_PREFETCHED = 4
"""Batches that each worker has ready, so that a slow picture does not stop the network."""

_Place: TypeAlias = tuple[int, int, int]
"""Index of a picture, its place in the run, a seed: all that its augmentation follows from."""


def open_folders(folder: Path, name: str, preprocessing: Preprocessing, how: str) -> Dataset:
    """Open the two folders.

    Args:
        folder: holds ``train`` and ``val``.
        name: of the evaluation set.
        preprocessing: one or three channels, and how large a picture becomes.
        how: to get the pictures, for messages.

    Raises:
        UserError: a folder is missing or holds no pictures, or the two do not hold the same classes.
    """
    from torchvision.datasets import ImageFolder

    parts = []
    for part in ("train", "val"):
        try:
            parts.append(ImageFolder(str(folder / part)))
        except OSError as error:
            raise UserError(f"{folder / part} holds no pictures in folders of their classes: {how}") from error
    train, val = parts
    if train.classes != val.classes:
        raise UserError(f"{folder}: train and val hold different classes ({len(train.classes)}, {len(val.classes)})")
    return _ImageFolders(train, val, name, preprocessing, how)


@final
class _ImageFolders(Dataset):
    """Decoded and augmented by worker processes: random resized crop and flip to train, a centre crop to evaluate."""

    def __init__(self, train: Any, val: Any, name: str, preprocessing: Preprocessing, how: str) -> None:
        self.name, self.preprocessing, self._how = name, preprocessing, how
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
            loader = DaliLoader(self._train, self.preprocessing, self._how)
            yield from loader.batches(indices, places, drawn, device)
            return
        self._order.batches = (indices, places, drawn)
        if self._loader is None:
            self._loader = DataLoader(
                _Augmented(self._train, self.preprocessing, self._how),
                batch_sampler=self._order,
                num_workers=workers(),
                pin_memory=device.type == "cuda",
                prefetch_factor=_PREFETCHED,
                persistent_workers=True,
                worker_init_fn=_outlast_signals,
            )
        yield from _normalised(self._loader, self.preprocessing, device)

    def with_dali(self) -> Dataset:
        """See ``Dataset``; the same parts of the same pictures, resized with other rounding."""
        require_dali()
        if self.preprocessing.shape[0] != 3:
            raise UserError("--loader dali reads pictures of three channels, these have one; leave it out")
        loaded = _ImageFolders(self._train, self._val, self.name, self.preprocessing, self._how)
        loaded._dali = True
        return loaded

    def plain(self, indices: Tensor, device: torch.device, batch_size: int = 250) -> Iterator[tuple[Tensor, Tensor]]:
        """See ``Dataset``."""
        numbers = indices.tolist()
        batches = [numbers[first : first + batch_size] for first in range(0, len(numbers), batch_size)]
        pictures = _Centred(self._train, self.preprocessing, self._how)
        loader = DataLoader(pictures, batch_sampler=batches, num_workers=workers(), worker_init_fn=_outlast_signals)
        yield from _normalised(loader, self.preprocessing, device)

    def evaluation(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """See ``Dataset``; of ImageNet 7.5 GB, so they are collected in a file, not in memory."""
        count, shape = len(self._val), self.preprocessing.shape
        labels = np.empty(count, np.int64)
        with tempfile.TemporaryFile() as stream:
            stream.truncate(count * math.prod(shape))
            images = np.memmap(stream, np.uint8, "r+", shape=(count, *shape))
        start = 0
        pictures = _Centred(self._val, self.preprocessing, self._how)
        for batch, batch_labels in _reported(DataLoader(pictures, 64, num_workers=workers())):
            images[start : start + len(batch)] = batch.numpy()
            labels[start : start + len(batch)] = batch_labels.numpy()
            start += len(batch)
        return images, labels


def workers() -> int:
    """Worker processes of this process: its share of the cores, where torchrun started several on this machine."""
    cores = len(os.sched_getaffinity(0))
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _outlast_signals(number: int) -> None:
    """In a worker: SIGTERM and Ctrl-C reach all processes, and the trainer needs its workers to end its step."""
    del number
    for request in (signal.SIGTERM, signal.SIGINT):
        signal.signal(request, signal.SIG_IGN)


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
    def __init__(self, folder: Any, preprocessing: Preprocessing, how: str) -> None:
        self._folder, self._how = folder, how
        self._channels, *self._size = preprocessing.shape

    def __getitem__(self, place: _Place) -> tuple[Tensor, int]:
        from torchvision.transforms.v2 import functional

        index, number, seed = place
        image, label = _decoded(self._folder, index, self._channels, self._how)
        size = torch.tensor([[image.height], [image.width]])
        boxes, mirrored = random_crops(seed, torch.tensor([number]), *size)
        # cut and shrunk before it becomes a tensor: a whole picture need not be copied
        image = functional.resized_crop(image, *boxes[0].tolist(), self._size, antialias=True)
        if mirrored:
            image = functional.horizontal_flip(image)
        return functional.pil_to_tensor(image), label


@final
class _Centred(TorchDataset[tuple[Tensor, int]]):
    def __init__(self, folder: Any, preprocessing: Preprocessing, how: str) -> None:
        from torchvision.transforms import v2

        self._folder, self._how, self._channels = folder, how, preprocessing.shape[0]
        size = preprocessing.resize if preprocessing.resize is not None else preprocessing.shape[1:]
        self._transform = v2.Compose(
            [v2.Resize(size, antialias=True), v2.CenterCrop(preprocessing.shape[1:]), v2.PILToTensor()]
        )

    def __len__(self) -> int:
        return len(self._folder)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        image, label = _decoded(self._folder, number, self._channels, self._how)
        return self._transform(image), label


def _decoded(folder: Any, index: int, channels: int, how: str) -> tuple[Any, int]:
    try:
        image, label = folder[index]
    except (OSError, SyntaxError) as error:  # what Pillow raises for a broken file
        raise UserError(f"{folder.samples[index][0]} is missing or damaged ({error}): {how}") from error
    return (image.convert("L") if channels == 1 else image), label


def _reported(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's batches; a user's error in a worker without the worker's traceback around it."""
    try:
        yield from loader
    except UserError as error:
        raise UserError(str(error).strip().splitlines()[-1].partition("UserError: ")[2]) from error


def _normalised(
    loader: DataLoader[Any], preprocessing: Preprocessing, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    mean = torch.tensor(preprocessing.mean, device=device).reshape(-1, 1, 1)
    std = torch.tensor(preprocessing.std, device=device).reshape(-1, 1, 1)
    for images, labels in _reported(loader):
        pictures = images.to(device, non_blocking=True).float()
        yield (pictures / 255 - mean) / std, labels.to(device, non_blocking=True)
