"""How a number of pictures is cut into compiled batch sizes, and engines that take only one size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.artifact import MANIFEST, open_artifact
from runtime.batches import padded, pieces, run_all
from runtime.check import replay
from runtime.engine import Engine, load
from runtime.errors import UserError


@pytest.mark.parametrize(
    ("pictures", "sizes", "expected"),
    [
        (0, (16, 1), []),
        (1, (16, 1), [(1, 1)]),
        (16, (16, 1), [(16, 16)]),
        (34, (16, 1), [(16, 16), (16, 16), (1, 1), (1, 1)]),
        (5, (16,), [(16, 5)]),
        (17, (16,), [(16, 16), (16, 1)]),
        (23, (4, 16), [(16, 16), (4, 4), (4, 3)]),
    ],
)
def test_pieces_by_hand(pictures: int, sizes: tuple[int, ...], expected: list[tuple[int, int]]) -> None:
    assert pieces(pictures, sizes) == expected


@given(st.integers(0, 200), st.lists(st.integers(1, 40), min_size=1, max_size=4, unique=True))
def test_pieces_hold_every_picture_once_and_only_the_last_is_short(pictures: int, sizes: list[int]) -> None:
    found = pieces(pictures, sizes)
    assert sum(count for _, count in found) == pictures
    assert all(size in sizes for size, _ in found)
    assert all(size == count for size, count in found[:-1])
    assert all(0 < count <= size for size, count in found)
    assert [size for size, _ in found] == sorted((size for size, _ in found), reverse=True)
    if 1 in sizes:
        assert all(size == count for size, count in found)


def test_padding_is_zeros_behind_the_pictures() -> None:
    batch = np.ones((2, 1, 3, 3), np.float32)
    full = padded(batch, 5)
    assert full.shape == (5, 1, 3, 3)
    assert np.array_equal(full[:2], batch)
    assert not full[2:].any()


class FixedEngine(Engine):
    """Answers with each picture's mean, and with nothing but batches of the artifact's size."""

    def _compute(self, given, results):
        results[0][:] = np.repeat(given.mean(axis=(1, 2, 3))[:, None], 3, axis=1)


@pytest.mark.parametrize("pictures", [0, 1, 2, 5])
def test_a_fixed_engine_is_run_as_often_as_it_takes(artifact: Path, pictures: int) -> None:
    engine = FixedEngine(open_artifact(artifact), 1)
    given_BCHW = np.random.default_rng(0).standard_normal((pictures, 1, 8, 8)).astype(np.float32)
    result = run_all(engine, given_BCHW)
    assert result.shape == (pictures, 3)
    np.testing.assert_allclose(result[:, 0], given_BCHW.mean(axis=(1, 2, 3)), rtol=1e-6)
    if pictures != 2:
        with pytest.raises(UserError, match=r"must be float32 \(2, 1, 8, 8\).*st3 compile --batch-size"):
            engine.run({"input": given_BCHW})


@pytest.mark.parametrize("pictures", [0, 1, 2, 3, 7])
def test_the_native_engine_takes_any_number_of_pictures(artifact: Path, pictures: int) -> None:
    engine = load(artifact)  # compiled for two
    whole = np.random.default_rng(0).standard_normal((8, 1, 8, 8)).astype(np.float32)
    expected = np.concatenate([engine.run({"input": whole[i : i + 2]})["output"] for i in range(0, 8, 2)])
    result = engine.run({"input": whole[:pictures]})["output"]
    assert result.shape == (pictures, 3)
    assert np.array_equal(result, expected[:pictures])


def test_a_native_payload_without_folders_as_schema_1_has_it_runs(artifact: Path) -> None:
    path = artifact / MANIFEST
    data = json.loads(path.read_text())
    data["schema_version"] = 1
    del data["target"]["batch_sizes"]
    data["files"] = {name.replace("payload/b2/", "payload/"): entry for name, entry in data["files"].items()}
    for file in (artifact / "payload/b2").iterdir():
        file.rename(artifact / "payload" / file.name)
    path.write_text(json.dumps(data))
    assert open_artifact(artifact).manifest.target.sizes == (2,)
    assert replay(load(artifact)).passed
