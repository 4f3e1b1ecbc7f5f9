"""What a data set gives to the training loop, and how one is found: a module in ``train/data``."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtime.data import EvaluationSet, Preprocessing, load_evaluation_set, write_evaluation_set
from runtime.errors import UserError

IMAGE_FOLDER = "image_folder"
"""Key of the data set that is anybody's pictures."""


class Dataset(ABC):
    """Training pictures with their augmentation, and the pictures on which accuracy is measured.

    Attributes:
        name: of the evaluation set.
        preprocessing: how a picture becomes the network's input.
        classes: their names in the order of the labels.
        size: number of training pictures.
        on_device: whether the pictures lie on the device and are augmented there, which is quick.
    """

    name: str
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    size: int
    on_device: bool = False

    @abstractmethod
    def batches(
        self,
        order: Tensor,
        batch_size: int,
        first_step: int,
        seed: int,
        device: torch.device,
        shard: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented, normalised batches; a picture's augmentation follows from the seed and its place in the run.

        Args:
            order: indices of the training pictures, as many as are wanted; a last short batch is dropped.
            batch_size: pictures per batch, all processes together.
            first_step: number of the first batch's step within the whole run, from which its augmentation follows.
            seed: the run's.
            device: where the batches shall lie.
            shard: number of this process and of all processes. Each reads its own consecutive part of every batch,
                and the parts together are the batch that one process alone would get.

        Yields:
            ``float32`` pictures ``(B, C, H, W)`` and ``int64`` labels ``(B,)``, B being this process's part.

        Raises:
            UserError: the batch cannot be shared among so many processes.
        """

    def plain(self, indices: Tensor, device: torch.device, batch_size: int = 250) -> Iterator[tuple[Tensor, Tensor]]:
        """Training pictures by their indices, normalised but not augmented, to be held out and evaluated.

        Raises:
            UserError: this data set cannot do that.
        """
        del indices, device, batch_size
        raise UserError(f"no training pictures of {self.name} can be held out; leave out --validate")

    def with_dali(self) -> Dataset:
        """This data set, its training pictures decoded and augmented by NVIDIA DALI.

        Raises:
            UserError: this data set cannot do that, or DALI is missing.
        """
        raise UserError(f"the pictures of {self.name} are not decoded while training; leave out --loader dali")

    @abstractmethod
    def evaluation(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """All evaluation pictures ``(n, C, H, W)`` and their labels ``(n,)``."""


def part_of_batches(order: Tensor, batch_size: int, first_step: int, shard: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """One process's part of every batch.

    Returns:
        Indices of pictures and their places within the whole run, both ``(batches, batch_size / processes)``.

    Raises:
        UserError: the batch cannot be shared among so many processes.
    """
    number, processes = shard
    if batch_size % processes:
        raise UserError(
            f"a batch of {batch_size} cannot be shared among {processes} processes; "
            f"choose a number of processes that divides it"
        )
    count, part = len(order) // batch_size, batch_size // processes
    own = slice(number * part, (number + 1) * part)
    indices = order[: count * batch_size].reshape(count, batch_size)
    places = torch.arange(count * batch_size).reshape(count, batch_size) + first_step * batch_size
    return indices[:, own], places[:, own]


def load_dataset(key: str, folder: Path, side: int | None = None) -> Dataset:
    """Open a data set.

    Args:
        key: a module in ``train/data``.
        folder: where its files lie.
        side: height and width in pixels that a picture gets; only folders of pictures can be asked for it.

    Raises:
        UserError: a file is missing or damaged; the message says how to get it.
    """
    load = importlib.import_module(f"train.data.{key}").load
    if side is not None and key != IMAGE_FOLDER:
        raise UserError(f"--image-size {side}: the pictures of {key} have one size; leave it out")
    dataset = load(folder) if side is None else load(folder, side)
    assert isinstance(dataset, Dataset), f"train.data.{key}.load returned {type(dataset)}"
    return dataset


def prepare_evaluation_set(dataset: Dataset, folder: Path) -> EvaluationSet:
    """Open the evaluation set in a folder, or write it there if there is none or it is damaged.

    Raises:
        UserError: the folder holds another data set's.
    """
    try:
        found = load_evaluation_set(folder, verify=True)
    except UserError:
        images, labels = dataset.evaluation()
        return write_evaluation_set(folder, dataset.name, images, labels, dataset.preprocessing, dataset.classes)
    if found.info.name != dataset.name or found.info.preprocessing != dataset.preprocessing:
        raise UserError(
            f"{folder} holds the evaluation set {found.info.name!r}, this recipe needs {dataset.name!r} with its own "
            f"preprocessing; give another folder with --evaluation"
        )
    return found
