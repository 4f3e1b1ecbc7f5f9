"""Tells which data set lies in a folder by the files that it is known by."""

from __future__ import annotations

from pathlib import Path

from runtime.errors import UserError
from train.dataset import IMAGE_FOLDER

_KNOWN_BY = (
    ("fashion_mnist", "train-images-idx3-ubyte.gz"),
    ("cifar10", "cifar-10-batches-*"),
    ("cifar10", "data_batch_1.bin"),
    ("cifar100", "cifar-100-*"),
    ("cifar100", "train.bin"),
    ("tiny_imagenet", "wnids.txt"),
    ("tiny_imagenet", "tiny-imagenet-200"),
    (IMAGE_FOLDER, "train/*"),
)
"""In this order: Tiny-ImageNet has a folder ``train`` too."""


def data_key(folder: Path) -> str:
    """Key of the data set in a folder.

    Raises:
        UserError: it is none that st3 reads.
    """
    for key, pattern in _KNOWN_BY:
        if next(folder.glob(pattern), None) is not None:
            return key
    raise UserError(
        f"{folder} holds no data set that st3 knows; give a folder with train/<class>/* and val/<class>/* pictures, or "
        f"one of Fashion-MNIST's, CIFAR's or Tiny-ImageNet's archives"
    )
