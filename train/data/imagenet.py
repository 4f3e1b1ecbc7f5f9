"""ImageNet (ILSVRC 2012) from folders of pictures: ``train/<class>/*.JPEG`` and ``val/<class>/*.JPEG``."""

from __future__ import annotations

from pathlib import Path

from runtime.data import Preprocessing
from train.dataset import Dataset
from train.folders import open_folders

_PREPROCESSING = Preprocessing(shape=(3, 224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=256)
_GET = (
    "get ILSVRC 2012 from image-net.org and put it there as one folder per class; --data names the folder that holds "
    "train and val"
)


def load(folder: Path) -> Dataset:
    """Open the two folders; a ``UserError`` if one is missing or they do not hold the same classes."""
    return open_folders(folder, "imagenet/val", _PREPROCESSING, _GET)
