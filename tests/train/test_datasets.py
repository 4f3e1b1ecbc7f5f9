"""Data sets as they lie on disk: what is read, what is damaged, what is missing."""

from __future__ import annotations

import gzip
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from runtime.data import Preprocessing
from runtime.errors import UserError
from train.dataset import load_dataset, prepare_evaluation_set
from train.folders import workers
from train.memory import MemoryDataset, flip

ROOT = Path(__file__).parents[2]
FASHION = ROOT / "data/fashion-mnist"


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
        ("cifar100", r"train.bin is missing: download it with: .*CIFAR100.*unpack cifar-100-binary.tar.gz"),
        ("tiny_imagenet", r"wnids.txt is missing: get tiny-imagenet-200.zip from cs231n.stanford.edu"),
        ("imagenet", "train holds no pictures in folders of their classes: get ILSVRC 2012"),
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


def fake_imagenet(folder: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts/fake_imagenet.py"), str(folder)]
    subprocess.run([*command, "--classes", "2", "--train", "4", "--val", "2"], check=True)


def test_imagenet_augmentation_follows_from_the_place_and_damage_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_imagenet(tmp_path)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "100")
    assert workers() == 1
    cpu, order = torch.device("cpu"), torch.tensor([0, 7, 3, 4, 1, 6])
    dataset = load_dataset("imagenet", tmp_path)
    whole = list(dataset.batches(order, 2, 10, 5, cpu))
    later = list(dataset.batches(order[2:], 2, 11, 5, cpu))  # by the same workers
    assert [len(whole), len(later)] == [3, 2]
    assert torch.equal(whole[1][0], later[0][0])
    assert whole[1][1].tolist() == later[0][1].tolist() == [0, 1]
    assert not torch.equal(whole[0][0], next(dataset.batches(order, 2, 11, 5, cpu))[0])
    parts = [list(load_dataset("imagenet", tmp_path).batches(order, 2, 10, 5, cpu, (rank, 2))) for rank in (0, 1)]
    for step, (pictures, labels) in enumerate(whole):
        assert torch.equal(pictures, torch.cat([part[step][0] for part in parts]))
        assert torch.equal(labels, torch.cat([part[step][1] for part in parts]))
    # what is held out is seen as the evaluation pictures are
    shutil.copy(tmp_path / "train/n00000001/n00000001_1.JPEG", tmp_path / "val/n00000001/n00000001_0.JPEG")
    images, targets = next(dataset.plain(torch.tensor([5]), cpu))
    expected = dataset.preprocessing.apply(dataset.evaluation()[0][2:3])
    assert torch.allclose(images, torch.from_numpy(expected), atol=1e-5)
    assert targets.tolist() == [1]
    broken = tmp_path / "train/n00000001/n00000001_0.JPEG"
    broken.write_bytes(broken.read_bytes()[:500])
    with pytest.raises(UserError, match=r"^\S+n00000001_0.JPEG is missing or damaged \(.*\): get ILSVRC 2012"):
        list(load_dataset("imagenet", tmp_path).batches(order, 2, 10, 5, cpu))


def test_imagenet_workers_outlast_a_signal_to_the_whole_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_imagenet(tmp_path)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "100")
    order = torch.arange(8).repeat(8)  # more than the workers have ready
    batches = load_dataset("imagenet", tmp_path).batches(order, 2, 0, 5, torch.device("cpu"))
    next(batches)
    for worker in multiprocessing.active_children():
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(worker.pid, number)
    assert len(list(batches)) == 31


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Two classes of Tiny-ImageNet as the archive unpacks, three pictures each and two to evaluate."""
    home = tmp_path / "tiny-imagenet-200"
    (home / "val/images").mkdir(parents=True)
    (home / "wnids.txt").write_text("n02\nn01\n")
    for number, identifier in enumerate(("n01", "n02")):
        images = home / "train" / identifier / "images"
        images.mkdir(parents=True)
        for picture in range(3):
            colour = np.full((64, 64, 3), 100 * number + 10, np.uint8)
            Image.fromarray(colour).convert("RGB" if picture else "L").save(images / f"{identifier}_{picture}.JPEG")
        Image.fromarray(colour).save(home / "val/images" / f"val_{number}.JPEG")
    (home / "val/val_annotations.txt").write_text("val_1.JPEG\tn02\t0\t0\t9\t9\nval_0.JPEG\tn01\t0\t0\t9\t9\n")
    return tmp_path


def test_tiny_imagenet_folders(tiny: Path) -> None:
    dataset = load_dataset("tiny_imagenet", tiny)
    assert (dataset.size, dataset.classes) == (6, ("n02", "n01"))
    images, labels = dataset.evaluation()
    assert images.shape == (2, 3, 64, 64)
    assert labels.tolist() == [0, 1]
    assert [int(image.mean().round()) for image in images] == [110, 10]
    pictures, targets = next(dataset.batches(torch.arange(6), 6, 0, 0, torch.device("cpu")))
    assert pictures.shape == (6, 3, 64, 64)
    assert targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert pictures[0, 0].mean().item() == pytest.approx((110 / 255 - 0.4802) / 0.2770, abs=0.02)
    assert load_dataset("tiny_imagenet", tiny / "tiny-imagenet-200").size == 6


def test_damaged_tiny_imagenet_is_refused(tiny: Path) -> None:
    home = tiny / "tiny-imagenet-200"
    dataset = load_dataset("tiny_imagenet", tiny)
    path = home / "val/val_annotations.txt"
    path.write_text(path.read_text().replace("n01", "n99"))
    with pytest.raises(UserError, match=r"names the class 'n99', which wnids.txt does not have: get tiny"):
        dataset.evaluation()
    path.unlink()
    with pytest.raises(UserError, match=r"val_annotations.txt is missing: get tiny"):
        dataset.evaluation()
    picture = home / "train/n01/images/n01_1.JPEG"
    picture.write_bytes(picture.read_bytes()[:100])
    with pytest.raises(UserError, match=r"n01_1.JPEG is missing or damaged .*: get tiny"):
        load_dataset("tiny_imagenet", tiny)
    shutil.rmtree(home / "train/n01")
    with pytest.raises(UserError, match=r"n01/images holds no pictures: get tiny"):
        load_dataset("tiny_imagenet", tiny)


def test_cifar100_reads_fine_labels(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    for name, count in (("train.bin", 50_000), ("test.bin", 10_000)):
        records = np.zeros((count, 3074), np.uint8)
        records[:, 0] = 19
        records[:, 1] = np.arange(count) % 100
        records[:, 2:1026] = 7
        records[:, 2050:] = 9
        records.tofile(folder / name)
    dataset = load_dataset("cifar100", tmp_path)
    images, labels = dataset.evaluation()
    assert (dataset.size, len(dataset.classes), dataset.classes[99]) == (50_000, 100, "worm")
    assert labels[95:103].tolist() == [95, 96, 97, 98, 99, 0, 1, 2]
    assert images[3, :, 31, 31].tolist() == [7, 0, 9]
    records[5, 1] = 100
    records.tofile(folder / "test.bin")
    with pytest.raises(UserError, match=r"test.bin holds a label 100, the highest is 99.*cifar-100-binary.tar.gz"):
        dataset.evaluation()


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
