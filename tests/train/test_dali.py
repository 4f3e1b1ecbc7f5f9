"""ImageNet through DALI gives the pictures that the other loader gives, up to the rounding of the resizing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from runtime.errors import UserError
from train.dataset import Dataset, load_dataset

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
ORDER = torch.tensor([0, 7, 3, 4, 1, 6, 2])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("imagenet")
    make = [sys.executable, str(ROOT / "scripts/fake_imagenet.py"), str(home)]
    subprocess.run([*make, "--classes", "2", "--train", "4", "--val", "1"], check=True)
    return home


def test_a_missing_dali_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(UserError, match=r"^--loader dali: NVIDIA DALI cannot be imported .*pip install 'st3\[dali\]'"):
        load_dataset("imagenet", folder).with_dali()


def test_pictures_in_memory_need_none() -> None:
    with pytest.raises(UserError, match="are not decoded while training; leave out --loader dali"):
        load_dataset("fashion_mnist", ROOT / "data/fashion-mnist").with_dali()


@pytest.fixture
def dali(folder: Path) -> Dataset:
    pytest.importorskip("nvidia.dali", reason="the extra dali is not installed")
    return load_dataset("imagenet", folder).with_dali()


def test_batches_are_those_of_the_other_loader(folder: Path, dali: Dataset) -> None:
    expected = list(load_dataset("imagenet", folder).batches(ORDER, 2, 10, 5, CPU))
    found = list(dali.batches(ORDER, 2, 10, 5, CPU))
    assert len(found) == len(expected) == 3, "a last short batch is dropped"
    for (pictures, labels), (others, their_labels) in zip(found, expected, strict=True):
        assert pictures.shape == (2, 3, 224, 224)
        assert pictures.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(labels, their_labels)
        # a step of one in 255 is 0.0175 here; Pillow rounds between its two passes
        assert (pictures - others).abs().max() < 0.06
        assert (pictures - others).abs().mean() < 0.006


def test_pictures_follow_from_seed_and_place(dali: Dataset) -> None:
    whole = list(dali.batches(ORDER, 2, 10, 5, CPU))
    later = list(dali.batches(ORDER[2:], 2, 11, 5, CPU))
    assert len(later) == 2
    assert all(torch.equal(left[0], right[0]) for left, right in zip(whole[1:], later, strict=True))
    assert not torch.equal(whole[0][0], next(dali.batches(ORDER, 2, 10, 6, CPU))[0])
    parts = [list(dali.batches(ORDER, 2, 10, 5, CPU, (rank, 2))) for rank in (0, 1)]
    for step, (pictures, labels) in enumerate(whole):
        assert torch.equal(pictures, torch.cat([part[step][0] for part in parts]))
        assert torch.equal(labels, torch.cat([part[step][1] for part in parts]))


@pytest.mark.parametrize("kept", [0, 30, 3000])
def test_damage_is_named(kept: int, folder: Path, dali: Dataset) -> None:
    broken = folder / "train/n00000001/n00000001_0.JPEG"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:kept])
    try:
        with pytest.raises(UserError, match=r"^\S+n00000001_0.JPEG is missing or damaged \(.*\): get ILSVRC 2012"):
            list(dali.batches(ORDER, 2, 10, 5, CPU))
    finally:
        broken.write_bytes(whole)
