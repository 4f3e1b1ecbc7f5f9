"""Reads picture files and arrays into an artifact's input batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from runtime.errors import UserError
from runtime.npy import read_npy

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from runtime.data import Preprocessing

_MAX_PIXELS = 64 << 20  # a small file may promise more than memory holds


def read_inputs(paths: tuple[Path, ...], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """All inputs as one normalised ``float32`` array ``(n, C, H, W)``.

    A ``.npy`` file holds ``uint8`` pictures (they are normalised) or ``float32`` tensors (they are taken as they are),
    ``(C, H, W)`` or ``(n, C, H, W)``; any other file is opened as a picture.

    Raises:
        UserError: a file is missing, unreadable, or of another shape.
    """
    return np.concatenate([_read_one(path, preprocessing) for path in paths])


def _read_one(path: Path, preprocessing: Preprocessing) -> NDArray[np.float32]:
    if not path.is_file():
        raise UserError(f"{path} is no file; give pictures (PNG, JPEG, ...) or .npy arrays")
    if path.suffix == ".npy":
        return _read_array(path, preprocessing)
    return preprocessing.apply(_read_picture(path, preprocessing)[None])


def _read_array(path: Path, preprocessing: Preprocessing) -> NDArray[np.float32]:
    try:
        array = read_npy(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a plain .npy array: {error}") from error
    batch = array[None] if array.ndim == 3 else array
    if batch.ndim != 4 or batch.shape[1:] != preprocessing.shape or batch.dtype not in (np.uint8, np.float32):
        raise UserError(
            f"{path} is {array.dtype} {array.shape}; this artifact takes uint8 or float32 of shape "
            f"{preprocessing.shape} or (n, {', '.join(map(str, preprocessing.shape))})"
        )
    return preprocessing.apply(batch) if batch.dtype == np.uint8 else np.ascontiguousarray(batch)


def _read_picture(path: Path, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError(f"reading {path} needs Pillow: pip install pillow; or give a .npy array") from error
    channels, height, width = preprocessing.shape
    if channels not in (1, 3):
        raise UserError(f"this artifact takes {channels} channels, which no picture file has; give a .npy array")
    try:
        with Image.open(path) as opened:
            if opened.width * opened.height > _MAX_PIXELS:
                raise UserError(f"{path} has {opened.width} x {opened.height} pixels, at most {_MAX_PIXELS:,} are read")
            picture = opened.convert("L" if channels == 1 else "RGB")
    except UserError:
        raise
    except Exception as error:  # each of its decoders fails in its own way on a damaged file
        raise UserError(f"{path} cannot be read as a picture: {error}") from error
    if preprocessing.resize is None:
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    else:
        factor = preprocessing.resize / min(picture.size)
        size = (max(width, round(picture.width * factor)), max(height, round(picture.height * factor)))
        left, top = (size[0] - width) // 2, (size[1] - height) // 2
        picture = picture.resize(size, Image.Resampling.BILINEAR).crop((left, top, left + width, top + height))
    array = np.asarray(picture, np.uint8)
    return array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))
