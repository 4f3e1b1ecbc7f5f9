"""How the two CIFAR archives lie on disk: torchvision's Python version, or the official binary records."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from runtime.data import Preprocessing
from runtime.errors import UserError
from train.memory import Augment, MemoryDataset, Pictures

_PIXEL_BYTES = 3 * 32 * 32
_PADDING = 4


class Archive(msgspec.Struct, frozen=True):
    """One of the two.

    Attributes:
        name: torchvision's class.
        folder: below ``data``, where it is looked for by default.
        python: folder that torchvision unpacks.
        binary: folder that the binary archive unpacks.
        package: name of the binary archive.
        train: files of the training pictures.
        test: files of the test pictures.
        records: pictures per file.
        label_bytes: before each picture's pixels; the last one is the label.
        classes: in the order of the labels.
        preprocessing: mean and deviation are those of the training pictures.
    """

    name: str
    folder: str
    python: str
    binary: str
    package: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    records: dict[str, int]
    label_bytes: int
    classes: tuple[str, ...]
    preprocessing: Preprocessing

    @property
    def how(self) -> str:
        """How to get it."""
        return (
            f'download it with: python -c "from torchvision.datasets import {self.name}; '
            f"{self.name}('data/{self.folder}', download=True)\" or unpack {self.package} from "
            f"www.cs.toronto.edu/~kriz/cifar.html into data/{self.folder}; --data names the folder"
        )


def open_archive(archive: Archive, folder: Path) -> MemoryDataset:
    """Open an archive; the binary files may lie in the folder itself or as the archive unpacks.

    Raises:
        UserError: a file is missing or damaged.
    """
    inner = folder / archive.binary
    home = inner if inner.is_dir() else folder
    python = (folder / archive.python).is_dir()
    read = partial(_read_torchvision, archive, folder) if python else partial(_read, archive, home)
    return MemoryDataset(
        name=f"{archive.folder}/test",
        preprocessing=archive.preprocessing,
        classes=archive.classes,
        pictures=read(archive.train),
        read_evaluation=partial(read, archive.test),
        augment=Augment(_PADDING),
    )


def _read_torchvision(archive: Archive, folder: Path, names: tuple[str, ...]) -> Pictures:
    """The Python version, which torchvision unpickles after it has compared each file with its md5."""
    import torchvision.datasets

    try:
        found = getattr(torchvision.datasets, archive.name)(folder, train=names == archive.train)
    except (RuntimeError, OSError) as error:
        raise UserError(f"{folder / archive.python} is incomplete or damaged ({error}); {archive.how}") from error
    return np.ascontiguousarray(found.data.transpose(0, 3, 1, 2)), np.asarray(found.targets, np.int64)


def _read(archive: Archive, folder: Path, names: tuple[str, ...]) -> Pictures:
    records = np.concatenate([_records(archive, folder / name) for name in names])
    images = np.ascontiguousarray(records[:, archive.label_bytes :]).reshape(-1, 3, 32, 32)
    return images, records[:, archive.label_bytes - 1].astype(np.int64)


def _records(archive: Archive, path: Path) -> NDArray[np.uint8]:
    if not path.is_file():
        raise UserError(f"{path} is missing: {archive.how}")
    raw = np.fromfile(path, np.uint8)
    size = archive.label_bytes + _PIXEL_BYTES
    expected = archive.records[path.name] * size
    if raw.size != expected:
        raise UserError(f"{path} has {raw.size} bytes, the original has {expected}: {archive.how}")
    records = raw.reshape(-1, size)
    highest = int(records[:, archive.label_bytes - 1].max())
    if highest >= len(archive.classes):
        raise UserError(
            f"{path} holds a label {highest}, the highest is {len(archive.classes) - 1}, so it is not the original: "
            f"{archive.how}"
        )
    return records
