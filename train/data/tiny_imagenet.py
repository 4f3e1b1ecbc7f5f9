"""Tiny-ImageNet-200 (Stanford CS231n 2015): 100,000 and 10,000 pictures of 64 x 64 pixels in 200 classes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.data import Preprocessing
from runtime.errors import UserError
from train.memory import Augment, MemoryDataset, Pictures

_SIDE = 64
_PADDING = 8
_PREPROCESSING = Preprocessing(shape=(3, _SIDE, _SIDE), mean=(0.4802, 0.4481, 0.3975), std=(0.2770, 0.2691, 0.2821))
_GET = (
    "get tiny-imagenet-200.zip from cs231n.stanford.edu/tiny-imagenet-200.zip and unpack it into data/tiny-imagenet; "
    "--data names the folder"
)


def load(folder: Path) -> MemoryDataset:
    """Open the archive as it unpacks: ``wnids.txt``, ``train/ID/images`` and ``val`` with ``val_annotations.txt``.

    The folder may be that of the archive or the one that it was unpacked into. Pictures are decoded once, at the start.

    Raises:
        UserError: a file is missing or damaged.
    """
    inner = folder / "tiny-imagenet-200"
    home = inner if inner.is_dir() else folder
    identifiers = _lines(home / "wnids.txt")
    numbers = {identifier: number for number, identifier in enumerate(identifiers)}
    return MemoryDataset(
        name="tiny-imagenet/val",
        preprocessing=_PREPROCESSING,
        classes=tuple(identifiers),
        pictures=_train(home, numbers),
        read_evaluation=partial(_val, home, numbers),
        augment=Augment(_PADDING),
    )


def _train(home: Path, numbers: dict[str, int]) -> Pictures:
    paths, labels = [], []
    for identifier, number in numbers.items():
        images = home / "train" / identifier / "images"
        found = sorted(images.glob("*.JPEG"))
        if not found:
            raise UserError(f"{images} holds no pictures: {_GET}")
        paths += found
        labels += [number] * len(found)
    return _decode(paths), np.asarray(labels, np.int64)


def _val(home: Path, numbers: dict[str, int]) -> Pictures:
    path = home / "val" / "val_annotations.txt"
    paths, labels = [], []
    for line in _lines(path):
        name, _, rest = line.partition("\t")
        identifier = rest.partition("\t")[0]
        if identifier not in numbers:
            raise UserError(f"{path} names the class {identifier!r}, which wnids.txt does not have: {_GET}")
        paths.append(home / "val" / "images" / name)
        labels.append(numbers[identifier])
    return _decode(paths), np.asarray(labels, np.int64)


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise UserError(f"{path} is missing: {_GET}")
    return path.read_text().splitlines()


def _decode(paths: list[Path]) -> NDArray[np.uint8]:
    images = np.empty((len(paths), 3, _SIDE, _SIDE), np.uint8)
    with ThreadPoolExecutor() as pool:  # the decoder runs outside the interpreter's lock
        for number, picture in enumerate(pool.map(_picture, paths)):
            images[number] = picture
    return images


def _picture(path: Path) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels: NDArray[np.uint8] = np.asarray(image.convert("RGB"), np.uint8)  # some are grey
    except OSError as error:
        raise UserError(f"{path} is missing or damaged ({error}): {_GET}") from error
    if pixels.shape != (_SIDE, _SIDE, 3):
        raise UserError(f"{path} has {pixels.shape[1]} x {pixels.shape[0]} pixels instead of 64 x 64: {_GET}")
    planes: NDArray[np.uint8] = np.moveaxis(pixels, 2, 0)
    return planes
