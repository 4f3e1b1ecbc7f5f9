"""Every format packs and unpacks every weight bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from compile.format import Cut, find_format, format_names
from compile.native.taps import Taps

SHAPES = [(1, 1, 1, 1), (5, 3, 3, 3), (16, 8, 1, 1), (7, 13, 2, 5), (10, 33, 3, 1)]


def weight_of(shape: tuple[int, ...], sparsity: float) -> np.ndarray:
    generator = np.random.default_rng(len(shape) + int(sparsity * 100))
    weight = generator.standard_normal(shape).astype(np.float32)
    weight[generator.random(shape) < sparsity] = 0.0
    return weight


@pytest.mark.parametrize("name", format_names())
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_round_trip_is_exact(name: str, sparsity: float, shape: tuple[int, int, int, int]) -> None:
    weight = weight_of(shape, sparsity)
    taps = Taps(shape[1], 1, 4096, 512, 64, 64)
    for cut in (Cut(shape[1]), Cut(4, groups=min(3, shape[0])), Cut(1, block=4)):
        plugin = find_format(name)
        assert np.array_equal(plugin.unpack(plugin.pack(weight, taps, cut), taps, shape), weight)


@pytest.mark.parametrize("name", format_names())
def test_special_values_are_kept(name: str) -> None:
    weight = np.zeros((3, 4, 1, 1), np.float32)
    weight[0, 1], weight[1, 2], weight[2, 3], weight[0, 3] = np.nan, np.inf, 1e-45, -np.inf
    taps = Taps(4, 1, 256, 64, 64, 64)
    plugin = find_format(name)
    result = plugin.unpack(plugin.pack(weight, taps, Cut(2)), taps, weight.shape)
    assert np.array_equal(result, weight, equal_nan=True)


def test_offset_stream_of_a_grouped_convolution() -> None:
    shape = (6, 2, 3, 3)
    weight = weight_of(shape, 0.6)
    taps = Taps(4, 2, 1024, 128, 32, 32)
    plugin = find_format("offset_stream")
    packed = plugin.pack(weight, taps, Cut(4))
    assert np.array_equal(plugin.unpack(packed, taps, shape), weight)
    # the second half of the outputs reads the second half of the input channels
    assert packed.offsets.max() >= 2 * 1024 // 32
    assert len(packed.weights) == np.count_nonzero(weight)


def test_offset_stream_refuses_nearly_dense_weights_with_the_density() -> None:
    plugin = find_format("offset_stream")
    assert plugin.reject(weight_of((8, 8, 3, 3), 0.9)) is None
    assert "density 1.000 is past break-even" in plugin.reject(np.ones((2, 2, 1, 1), np.float32))


def test_offset_stream_counts_far_taps_in_32_bits() -> None:
    weight = weight_of((3, 70, 1, 1), 0.5)
    weight[0, 69] = 1.0
    plugin = find_format("offset_stream")
    for stride, bits in ((64 * 900, 16), (64 * 1000, 32)):
        taps = Taps(70, 1, stride, 64, 64, 64)
        packed = plugin.pack(weight, taps, Cut(16))
        assert packed.offsets.itemsize * 8 == bits
        assert np.array_equal(plugin.unpack(packed, taps, weight.shape), weight)


def test_groups_share_the_work() -> None:
    weight = np.zeros((40, 16, 1, 1), np.float32)
    weight[:4] = 1.0  # all the work in the first tenth of the channels
    plugin = find_format("offset_stream")
    packed = plugin.pack(weight, Taps(16, 1, 64, 64, 64, 64), Cut(16, groups=2))
    work = np.diff([*packed.segments["entry"][0], len(packed.weights)])
    assert sum(work) == 64
    assert max(work) <= 48


def blocked_weight(outputs: int) -> np.ndarray:
    blocks = weight_of((-(-outputs // 4), 9, 3, 3), 0.6)
    return np.repeat(blocks, 4, axis=0)[:outputs] * np.linspace(1, 2, outputs, dtype=np.float32)[:, None, None, None]


@pytest.mark.parametrize("outputs", [4, 8, 21, 22, 23])
def test_block_stream_takes_full_blocks_and_stores_nothing_else(outputs: int) -> None:
    weight = blocked_weight(outputs)
    taps = Taps(9, 1, 2048, 256, 64, 64)
    plugin = find_format("block_stream")
    assert plugin.reject(weight) is None
    packed = plugin.pack(weight, taps, Cut(4, groups=2))
    assert np.array_equal(plugin.unpack(packed, taps, weight.shape), weight)
    assert len(packed.weights) == np.count_nonzero(weight[::4])
    assert packed.bounds[-1] == outputs
    assert not (packed.bounds[:-1] % 4).any()


def test_block_stream_refuses_with_the_reason() -> None:
    plugin = find_format("block_stream")
    weight = blocked_weight(22)
    weight[0][weight[0] != 0] = 0  # a quarter of each of the first blocks is missing
    kept, missing = np.count_nonzero(weight), np.count_nonzero(weight[1])
    fill = f"{kept / (kept + missing):.3f}"
    assert plugin.reject(weight) == f"the non-zeros fill {fill} of their blocks of 4 output channels"
    assert plugin.reject(blocked_weight(3)) == "3 output channels are fewer than a block of 4"
    assert "density 1.000 is past break-even" in plugin.reject(np.ones((8, 2, 1, 1), np.float32))
