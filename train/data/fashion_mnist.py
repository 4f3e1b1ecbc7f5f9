"""Fashion-MNIST (Xiao, Rasul and Vollgraf 2017): 60,000 and 10,000 grey pictures of 28 x 28 pixels in ten classes."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.data import Preprocessing
from runtime.errors import UserError
from train.memory import MemoryDataset, Pictures, flip

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_PREPROCESSING = Preprocessing(shape=(1, 28, 28), mean=(0.2860,), std=(0.3530,))

# of the unpacked files: the same whoever compressed them
_MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}


def load(folder: Path) -> MemoryDataset:
    """Open the four ``.gz`` files in a folder.

    Raises:
        UserError: a file is missing or is not the original.
    """
    return MemoryDataset(
        name="fashion-mnist/test",
        preprocessing=_PREPROCESSING,
        classes=CLASSES,
        pictures=_read(folder, "train"),
        read_evaluation=lambda: _read(folder, "t10k"),
        augment=flip,
    )


def _read(folder: Path, part: str) -> Pictures:
    images = _payload(folder, f"{part}-images-idx3-ubyte", header_bytes=16).reshape(-1, 1, 28, 28)
    labels = _payload(folder, f"{part}-labels-idx1-ubyte", header_bytes=8).astype(np.int64)
    return images, labels


def _payload(folder: Path, name: str, header_bytes: int) -> NDArray[np.uint8]:
    path = folder / f"{name}.gz"
    again = "it is part of this repository and of github.com/zalandoresearch/fashion-mnist"
    if not path.is_file():
        raise UserError(f"{path} is missing; {again}; --data names its folder")
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged ({error}); {again}") from error
    digest = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if digest != _MD5[name]:
        raise UserError(f"{path} unpacks to md5 {digest}, the original has {_MD5[name]}; {again}")
    # a copy, since torch wants writable memory
    payload: NDArray[np.uint8] = np.frombuffer(raw, np.uint8, offset=header_bytes).copy()
    return payload
