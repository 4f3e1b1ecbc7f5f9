from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from runtime.data import Preprocessing
from runtime.errors import UserError
from train.dataset import load_dataset, prepare_evaluation_set
from train.memory import MemoryDataset, crop, flip

FASHION = Path(__file__).parents[2] / "data/fashion-mnist"


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_fashion_mnist_is_the_original() -> None:
    dataset = load_dataset("fashion_mnist", FASHION)
    images, labels = dataset.evaluation()
    assert dataset.size == 60_000
    assert images.shape == (10_000, 1, 28, 28)
    assert np.bincount(labels).tolist() == [1000] * 10
    assert len(dataset.classes) == 10


def test_fashion_mnist_statistics_are_its_own() -> None:
    dataset = load_dataset("fashion_mnist", FASHION)
    pictures, _ = next(dataset.batches(torch.arange(60_000), 10_000, 0, 0, torch.device("cpu")))
    assert pictures.mean().item() == pytest.approx(0, abs=0.02)
    assert pictures.std().item() == pytest.approx(1, abs=0.02)


def test_another_gzip_of_the_same_bytes_is_taken_and_other_bytes_are_not(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FASHION, tmp_path / "copy"))
    path = folder / "t10k-labels-idx1-ubyte.gz"
    raw = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(raw, compresslevel=1))
    dataset = load_dataset("fashion_mnist", folder)
    assert len(dataset.evaluation()[1]) == 10_000
    path.write_bytes(gzip.compress(raw[:-1] + b"\0"))
    with pytest.raises(UserError, match="the original has 15d484375f8d13e6eb1aabb0c3f46965"):
        dataset.evaluation()
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="is damaged"):
        dataset.evaluation()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("fashion_mnist", "train-images-idx3-ubyte.gz is missing"),
        ("cifar10", r"data_batch_1.bin is missing: download it with: .*download=True.*unpack cifar-10-binary.tar.gz"),
        ("imagenet", "train holds no ImageNet pictures: get ILSVRC 2012"),
    ],
)
def test_missing_data_says_which_file_and_how_to_get_it(key: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_dataset(key, tmp_path)


def test_cifar10_as_torchvision_downloads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Downloaded:
        def __init__(self, root: Path, train: bool) -> None:
            assert root == tmp_path
            self.data = np.zeros((3 if train else 2, 32, 32, 3), np.uint8)
            self.data[0, 5, 7, 2] = 9
            self.targets = [1, 2, 3] if train else [4, 5]

    monkeypatch.setattr("torchvision.datasets.CIFAR10", Downloaded)
    (tmp_path / "cifar-10-batches-py").mkdir()
    images, labels = load_dataset("cifar10", tmp_path).evaluation()
    assert images.shape == (2, 3, 32, 32)
    assert images[0, 2, 5, 7] == 9
    assert labels.tolist() == [4, 5]


def test_damaged_download_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(UserError, match=r"incomplete or damaged.*download=True"):
        load_dataset("cifar10", tmp_path)


def test_cifar10_reads_labels_and_planes(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for number, name in enumerate([*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]):
        records = np.zeros((10_000, 3073), np.uint8)
        records[:, 0] = np.arange(10_000) % 10
        records[:, 1:1025] = 10 * number + 1
        records[:, 1025:2049] = 2
        records[:, 2049:] = 3
        records.tofile(folder / name)
    dataset = load_dataset("cifar10", tmp_path)
    images, labels = dataset.evaluation()
    assert dataset.size == 50_000
    assert labels[:12].tolist() == [*range(10), 0, 1]
    assert images[7, :, 5, 5].tolist() == [51, 2, 3]
    pictures, targets = next(dataset.batches(torch.tensor([10_003, 9]), 2, 0, 0, torch.device("cpu")))
    assert targets.tolist() == [3, 9]
    assert pictures[0, 0, 0, 0].item() == pytest.approx((11 / 255 - 0.4914) / 0.2470, rel=1e-5)
    (folder / "test_batch.bin").write_bytes(b"short")
    with pytest.raises(UserError, match="has 5 bytes, the original has 30730000"):
        dataset.evaluation()


def test_imagenet_folders(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for label, colour in (("a", 50), ("b", 200)):
            (tmp_path / part / label).mkdir(parents=True)
            for number in range(3):
                picture = np.full((300, 280, 3), colour, np.uint8)
                Image.fromarray(picture).save(tmp_path / part / label / f"{number}.png")
    dataset = load_dataset("imagenet", tmp_path)
    images, labels = dataset.evaluation()
    assert images.shape == (6, 3, 224, 224)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert images[0].min() == images[0].max() == 50
    pictures, targets = next(dataset.batches(torch.tensor([5, 0, 1]), 2, 0, 0, torch.device("cpu")))
    assert targets.tolist() == [1, 0]
    assert pictures.shape == (2, 3, 224, 224)
    assert pictures[0, 0, 0, 0].item() == pytest.approx((200 / 255 - 0.485) / 0.229, rel=1e-4)


def test_batches_can_begin_in_the_middle() -> None:
    dataset = load_dataset("fashion_mnist", FASHION)
    order = torch.randperm(600, generator=random())
    whole = list(dataset.batches(order, 100, 40, 7, torch.device("cpu")))
    rest = list(dataset.batches(order[200:], 100, 42, 7, torch.device("cpu")))
    assert len(whole) == 6
    assert len(rest) == 4
    for (left, _), (right, _) in zip(whole[2:], rest, strict=True):
        assert torch.equal(left, right)


def test_flip_mirrors_about_half_and_leaves_the_rest() -> None:
    pictures = torch.arange(1000 * 4.0).reshape(1000, 1, 1, 4)
    flipped = flip(pictures, random())
    mirrored = (flipped == pictures.flip(3)).all(dim=(1, 2, 3))
    kept = (flipped == pictures).all(dim=(1, 2, 3))
    assert (mirrored ^ kept).all()
    assert 430 < mirrored.sum() < 570


def test_crop_shifts_within_the_padding() -> None:
    picture = torch.arange(36.0).reshape(1, 1, 6, 6).repeat(200, 2, 1, 1)
    cropped = crop(picture, 2, random())
    assert cropped.shape == picture.shape
    assert torch.equal(cropped[:, 0], cropped[:, 1])
    # rows are 6 apart, columns 1: the centre pixel 14 moves by at most 2 rows and 2 columns
    shifts = {int(value) - 14 for value in cropped[:, 0, 2, 2].tolist()}
    assert shifts == {6 * row + column for row in range(-2, 3) for column in range(-2, 3)}


def test_evaluation_set_is_written_once_and_never_mixed_up(tmp_path: Path) -> None:
    pictures = (np.zeros((4, 1, 2, 2), np.uint8), np.arange(4))
    reads = []

    def toy(name: str) -> MemoryDataset:
        def read() -> tuple[np.ndarray, np.ndarray]:
            reads.append(name)
            return pictures

        return MemoryDataset(name, Preprocessing((1, 2, 2), (0.0,), (1.0,)), ("a",) * 4, pictures, read, flip)

    assert len(prepare_evaluation_set(toy("one"), tmp_path)) == 4
    assert len(prepare_evaluation_set(toy("one"), tmp_path)) == 4
    assert reads == ["one"]
    (tmp_path / "images.npy").write_bytes(b"damaged")
    assert len(prepare_evaluation_set(toy("one"), tmp_path)) == 4
    assert reads == ["one", "one"]
    with pytest.raises(UserError, match="holds the evaluation set 'one', this recipe needs 'two'"):
        prepare_evaluation_set(toy("two"), tmp_path)
