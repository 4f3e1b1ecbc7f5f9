"""Anybody's pictures: ``train/<class>/*`` and ``val/<class>/*``, brought to one size and normalised as ImageNet's."""

from __future__ import annotations

import hashlib
from pathlib import Path

from runtime.data import Preprocessing
from train.dataset import Dataset
from train.folders import open_folders

SIDE = 224
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_GET = "--data names a folder with train and val, and in each of them a folder of pictures for every class"


def load(folder: Path, side: int = SIDE) -> Dataset:
    """Open the two folders; a ``UserError`` if one is missing or they do not hold the same classes.

    Args:
        folder: holds ``train`` and ``val``.
        side: height and width in pixels that a picture gets.
    """
    preprocessing = Preprocessing((3, side, side), _MEAN, _STD, resize=side * 256 // 224)
    return open_folders(folder, f"{folder.resolve().name}-{_digest(folder)}/val", preprocessing, _GET)


def _digest(folder: Path) -> str:
    """Of the pictures' names and sizes: two folders of one name do not share an evaluation set."""
    found = sorted(path for path in (folder / "val").rglob("*") if path.is_file())
    lines = [f"{path.relative_to(folder)} {path.stat().st_size}" for path in found]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:8]
