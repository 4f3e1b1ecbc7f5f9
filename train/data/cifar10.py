"""CIFAR-10 (Krizhevsky 2009): 50,000 and 10,000 colour pictures of 32 x 32 pixels in ten classes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtime.data import Preprocessing
from runtime.errors import UserError
from train.memory import MemoryDataset, Pictures, crop, flip

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_PREPROCESSING = Preprocessing(shape=(3, 32, 32), mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_TEST = ("test_batch.bin",)
_GET = (
    "download it with: python -c \"from torchvision.datasets import CIFAR10; CIFAR10('data/cifar10', download=True)\" "
    "or unpack cifar-10-binary.tar.gz from www.cs.toronto.edu/~kriz/cifar.html into data/cifar10; "
    "--data names the folder"
)
_RECORDS, _RECORD_BYTES = 10_000, 1 + 3 * 32 * 32


def load(folder: Path) -> MemoryDataset:
    """Open what torchvision downloaded into a folder, or the six ``.bin`` files of the binary version.

    The binary files may lie in the folder or in ``cifar-10-batches-bin`` below it, as the archive unpacks.

    Raises:
        UserError: a file is missing or damaged.
    """
    inner = folder / "cifar-10-batches-bin"
    home = inner if inner.is_dir() else folder
    python = (folder / "cifar-10-batches-py").is_dir()
    read = partial(_read_torchvision, folder) if python else partial(_read, home)
    return MemoryDataset(
        name="cifar10/test",
        preprocessing=_PREPROCESSING,
        classes=CLASSES,
        pictures=read(_TRAIN),
        read_evaluation=partial(read, _TEST),
        augment=_augment,
    )


def _augment(images: Tensor, random: torch.Generator) -> Tensor:
    return flip(crop(images, 4, random), random)


def _read_torchvision(folder: Path, names: tuple[str, ...]) -> Pictures:
    """The Python version, which torchvision unpickles after it has compared each file with its md5."""
    from torchvision.datasets import CIFAR10

    try:
        found = CIFAR10(folder, train=names == _TRAIN)
    except (RuntimeError, OSError) as error:
        raise UserError(f"{folder / 'cifar-10-batches-py'} is incomplete or damaged ({error}); {_GET}") from error
    return np.ascontiguousarray(found.data.transpose(0, 3, 1, 2)), np.asarray(found.targets, np.int64)


def _read(folder: Path, names: tuple[str, ...]) -> Pictures:
    records = np.concatenate([_records(folder / name) for name in names])
    images = np.ascontiguousarray(records[:, 1:]).reshape(-1, 3, 32, 32)
    return images, records[:, 0].astype(np.int64)


def _records(path: Path) -> NDArray[np.uint8]:
    if not path.is_file():
        raise UserError(f"{path} is missing: {_GET}")
    raw = np.fromfile(path, np.uint8)
    if raw.size != _RECORDS * _RECORD_BYTES:
        raise UserError(f"{path} has {raw.size} bytes, the original has {_RECORDS * _RECORD_BYTES}: {_GET}")
    records = raw.reshape(_RECORDS, _RECORD_BYTES)
    if records[:, 0].max() >= len(CLASSES):
        raise UserError(f"{path} holds labels above 9, so it is not the original: {_GET}")
    return records
