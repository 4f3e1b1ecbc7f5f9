"""CIFAR-10 (Krizhevsky 2009): 50,000 and 10,000 colour pictures of 32 x 32 pixels in ten classes."""

from __future__ import annotations

from pathlib import Path

from runtime.data import Preprocessing
from train.cifar import Archive, open_archive
from train.memory import MemoryDataset

_ARCHIVE = Archive(
    name="CIFAR10",
    folder="cifar10",
    python="cifar-10-batches-py",
    binary="cifar-10-batches-bin",
    package="cifar-10-binary.tar.gz",
    train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    test=("test_batch.bin",),
    records={**{f"data_batch_{number}.bin": 10_000 for number in range(1, 6)}, "test_batch.bin": 10_000},
    label_bytes=1,
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    preprocessing=Preprocessing(shape=(3, 32, 32), mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
)


def load(folder: Path) -> MemoryDataset:
    """Open what torchvision downloaded into a folder, or the six ``.bin`` files of the binary version.

    Raises:
        UserError: a file is missing or damaged.
    """
    return open_archive(_ARCHIVE, folder)
