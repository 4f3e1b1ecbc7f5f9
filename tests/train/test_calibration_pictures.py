"""``python -m train.calibration``: training pictures for a quantiser, as the network takes them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from runtime.errors import UserError
from train.calibration import main
from train.data.fashion_mnist import load

DATA = Path(__file__).parents[2] / "data/fashion-mnist"


def raw(part: str) -> set[bytes]:
    pixels = gzip.decompress((DATA / f"{part}-images-idx3-ubyte.gz").read_bytes())[16:]
    return {pixels[start : start + 784] for start in range(0, len(pixels), 784)}


def run(*arguments: object) -> None:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception


def test_they_are_training_pictures_drawn_by_the_seed(tmp_path: Path) -> None:
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        run(DATA, "--pictures", 12, "--seed", seed, "--out", tmp_path / f"deep/{name}.npy")
    found = {name: np.load(tmp_path / f"deep/{name}.npy") for name in ("first", "again", "other")}
    assert (found["first"].shape, found["first"].dtype) == ((12, 1, 28, 28), np.float32)
    assert np.array_equal(found["first"], found["again"])
    assert not np.array_equal(found["first"], found["other"])
    preprocessing = load(DATA).preprocessing
    pictures = np.rint((found["first"] * preprocessing.std[0] + preprocessing.mean[0]) * 255).astype(np.uint8)
    drawn = {picture.tobytes() for picture in pictures}
    assert drawn <= raw("train")
    assert not drawn & raw("t10k")
    assert not list(tmp_path.rglob("*.part"))


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no data set that st3 knows"):
        run(tmp_path, "--out", tmp_path / "x.npy")
