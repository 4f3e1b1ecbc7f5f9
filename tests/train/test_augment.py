"""Batches from memory: their order, their augmentation, and the draws that both follow from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from train_toy import FASHION

import train.memory
from runtime.data import Preprocessing
from runtime.errors import UserError
from train.dataset import load_dataset
from train.draws import below, draw
from train.memory import Augment, MemoryDataset, flip


def test_batches_can_begin_in_the_middle() -> None:
    dataset = load_dataset("fashion_mnist", FASHION)
    order = torch.randperm(600, generator=torch.Generator().manual_seed(0))
    whole = list(dataset.batches(order, 100, 40, 7, torch.device("cpu")))
    rest = list(dataset.batches(order[200:], 100, 42, 7, torch.device("cpu")))
    assert len(whole) == 6
    assert len(rest) == 4
    for (left, _), (right, _) in zip(whole[2:], rest, strict=True):
        assert torch.equal(left, right)


def squares(count: int, side: int, augment: Augment, channels: int = 2) -> MemoryDataset:
    """Pictures that all hold the numbers 0, 1, 2, ... row by row in every channel, not normalised."""
    picture = np.arange(side * side, dtype=np.uint8).reshape(1, 1, side, side)
    pictures = (np.tile(picture, (count, channels, 1, 1)), np.zeros(count, np.int64))
    plain = Preprocessing((channels, side, side), (0.0,) * channels, (1 / 255,) * channels)
    return MemoryDataset("squares", plain, ("a",), pictures, lambda: pictures, augment)


def one_batch(dataset: MemoryDataset, seed: int = 0) -> torch.Tensor:
    order = torch.arange(dataset.size)
    return next(dataset.batches(order, dataset.size, 0, seed, torch.device("cpu")))[0].round()


def test_flip_mirrors_about_half_and_leaves_the_rest() -> None:
    pictures = one_batch(squares(1000, 4, flip))
    original = torch.arange(16.0).reshape(4, 4)
    mirrored = (pictures == original.flip(1)).all(dim=(1, 2, 3))
    kept = (pictures == original).all(dim=(1, 2, 3))
    assert (mirrored ^ kept).all()
    assert 430 < mirrored.sum() < 570


def test_crop_shifts_within_the_padding_and_repeats_the_edge() -> None:
    pictures = one_batch(squares(600, 6, Augment(2)))
    assert torch.equal(pictures[:, 0], pictures[:, 1])
    padded = torch.arange(36.0).reshape(6, 6)[[0, 0, 0, 1, 2, 3, 4, 5, 5, 5]][:, [0, 0, 0, 1, 2, 3, 4, 5, 5, 5]]
    windows = [padded[top : top + 6, left : left + 6] for top in range(5) for left in range(5)]
    possible = torch.stack([*windows, *(window.flip(1) for window in windows)])
    matches = (pictures[:, :1] == possible).all(dim=(2, 3))
    assert (matches.sum(1) == 1).all(), "each is one of the 25 windows or its mirror image"
    counts = matches.sum(0)
    assert counts.min() > 0
    assert counts.max() < 40  # 12 are expected of each


def test_augmentation_depends_on_seed_and_place_and_is_the_same_for_any_number_of_processes() -> None:
    dataset = squares(64, 6, Augment(2))
    assert not torch.equal(one_batch(dataset, 0), one_batch(dataset, 1))
    whole = list(dataset.batches(torch.arange(64), 16, 5, 3, torch.device("cpu")))
    assert not torch.equal(whole[0][0], whole[1][0])
    parts = [
        [pictures for pictures, _ in dataset.batches(torch.arange(64), 16, 5, 3, torch.device("cpu"), (rank, 4))]
        for rank in range(4)
    ]
    for step, (pictures, _) in enumerate(whole):
        assert torch.equal(pictures, torch.cat([part[step] for part in parts]))
    with pytest.raises(UserError, match="a batch of 16 cannot be shared among 3 processes"):
        next(dataset.batches(torch.arange(64), 16, 0, 0, torch.device("cpu"), (0, 3)))


def test_batches_made_together_are_those_made_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = load_dataset("fashion_mnist", FASHION)
    order = torch.arange(2_000)
    made = []
    for together in (1, 7 * 100 * 28 * 28 * 4):
        monkeypatch.setitem(train.memory._TOGETHER_BYTES, "cpu", together)
        made.append(list(dataset.batches(order, 100, 3, 0, torch.device("cpu"))))
    assert len(made[0]) == len(made[1]) == 20
    for left, right in zip(*made, strict=True):
        assert torch.equal(left[0], right[0])
        assert torch.equal(left[1], right[1])


def test_training_and_evaluation_see_the_same_numbers() -> None:
    dataset = load_dataset("fashion_mnist", FASHION)
    images, _ = dataset.evaluation()
    twin = MemoryDataset("twin", dataset.preprocessing, dataset.classes, (images, np.zeros(10_000, np.int64)),
                         dataset.evaluation, flip)  # fmt: skip
    plain, _ = next(twin.plain(torch.arange(50, 60), torch.device("cpu")))
    assert np.array_equal(plain.numpy(), dataset.preprocessing.apply(images[50:60]))


def test_draws_are_those_of_splitmix64() -> None:
    # the first outputs of the reference implementation (prng.di.unimi.it/splitmix64.c) for the seed 1234567
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    drawn = draw(1234567, torch.arange(4)).tolist()
    assert [value % (1 << 64) for value in drawn] == expected
    numbers = below(9, draw(5, torch.arange(90_000)), 21)
    assert (numbers.min(), numbers.max()) == (0, 8)
    assert torch.bincount(numbers).float().std() < 300
