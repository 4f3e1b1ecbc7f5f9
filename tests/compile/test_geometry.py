"""Lanes, halos and relayouts, against plain indexing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compile.native.arena import place_buffers
from compile.native.geometry import (
    Geometry,
    Placement,
    blend_table,
    candidates,
    gather_table,
    inside_masks,
    scatter_table,
)
from compile.native.steps import Scatter


@st.composite
def placements(draw: st.DrawFn) -> Placement:
    lanes = draw(st.sampled_from([4, 8, 16]))
    images = draw(st.sampled_from([n for n in (1, 2, 4, 8, 16) if n <= lanes]))
    shape = (1, draw(st.integers(1, 19)), draw(st.integers(1, 19)))
    options = candidates(shape, lanes, images)
    geometry = options[draw(st.integers(0, len(options) - 1))]
    halo = tuple(draw(st.integers(0, 3)) for _ in range(4))
    return Placement(geometry, draw(st.integers(1, 3)), halo)


def fill(placement: Placement, pictures: np.ndarray) -> np.ndarray:
    """The tensor's floats as a gather from plain pictures leaves them; outside is -7."""
    table = gather_table((placement.channels, *pictures.shape[2:]), placement, (1, 1))
    memory = np.full(placement.size // 4, -9.0, np.float32)
    flat = pictures.reshape(-1)
    for row in range(table.shape[0]):
        for channel in range(placement.channels):
            at = (row * placement.row_stride + channel * placement.channel_stride) // 4
            index = table[row] + channel * pictures.shape[2] * pictures.shape[3]
            memory[at : at + table[row].size] = np.where(table[row] >= 0, flat[index], -7.0).reshape(-1)
    return memory


@settings(max_examples=60)
@given(placements())
def test_what_is_gathered_is_scattered_back(placement: Placement) -> None:
    geometry = placement.geometry
    shape = (geometry.images, placement.channels, geometry.height, geometry.width)
    pictures = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    memory = fill(placement, pictures)
    table = scatter_table(placement)
    for channel in range(placement.channels):
        back = memory[table + channel * placement.channel_stride // 4]
        assert np.array_equal(back.reshape(geometry.images, geometry.height, geometry.width), pictures[:, channel])


@settings(max_examples=60)
@given(placements())
def test_edges_rebuild_the_halo_that_a_gather_makes(placement: Placement) -> None:
    geometry = placement.geometry
    shape = (geometry.images, placement.channels, geometry.height, geometry.width)
    pictures = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected = fill(placement, pictures)
    edges, start = placement.edges()
    lanes = geometry.lanes
    memory = expected.copy()
    count = start[-1]
    for target in edges["target"][:count]:  # spoil everything that the edges are to rebuild from inside
        if target not in edges["source"][:count]:
            memory[target // 4 : target // 4 + lanes] = 123.0
    for source, target, lane, inside in edges[:count]:
        value = memory[source // 4 : source // 4 + lanes][lane]
        memory[target // 4 : target // 4 + lanes] = np.where(inside, value, -7.0)
    first = placement.channel_stride // 4
    used = np.arange(lanes) < geometry.images * geometry.lane_rows * geometry.lane_columns
    rows = geometry.rows + placement.halo[0] + placement.halo[2]
    for row in range(rows):
        at = row * placement.row_stride // 4
        a, b = (m[at : at + first].reshape(-1, lanes)[:, used] for m in (memory, expected))
        assert np.array_equal(a, b)


@st.composite
def relayouts(draw: st.DrawFn) -> tuple[Placement, Placement, tuple[int, int]]:
    """A tensor, and another one that holds every pixel of it or every second."""
    source = draw(placements())
    step = draw(st.sampled_from([(1, 1), (2, 2), (1, 2)]))
    size = tuple(-(-length // stride) for length, stride in zip(source_size(source), step, strict=True))
    options = candidates((1, *size), source.geometry.lanes, source.geometry.images)
    halo = tuple(draw(st.integers(0, 2)) for _ in range(4))
    return source, Placement(draw(st.sampled_from(options)), source.channels, halo), step


def source_size(placement: Placement) -> tuple[int, int]:
    return placement.geometry.height, placement.geometry.width


@settings(max_examples=60)
@given(relayouts())
def test_blends_move_what_a_gather_moves(case: tuple[Placement, Placement, tuple[int, int]]) -> None:
    source, target, step = case
    table = gather_table(source, target, step)
    memory = np.random.default_rng(0).standard_normal(source.size // 4).astype(np.float32)
    blends, start = blend_table(table, target.geometry)
    lanes = target.geometry.lanes
    for vector, expected in enumerate(table.reshape(-1, lanes)):
        value = np.full(lanes, -7.0, np.float32)
        for blend in blends[start[vector] : start[vector + 1]]:
            assert blend["source"] % (4 * lanes) == 0
            at = blend["source"] // 4
            value = np.where(blend["inside"], memory[at : at + lanes][blend["lane"]], value)
        assert np.array_equal(value, np.where(expected >= 0, memory[expected], -7.0))
    assert start[-1] == len(blends)


def test_candidates_begin_with_the_fewest_vectors() -> None:
    options = candidates((1, 28, 28), 16, 1)
    assert options[0].rows * options[0].columns == 49
    sizes = [geometry.rows * geometry.columns for geometry in options]
    assert sizes == sorted(sizes)


def test_inside_masks_count_the_pixels() -> None:
    placement = Placement(Geometry(16, 1, 4, 4, 4, 4, 14, 13), 1)
    assert -inside_masks(placement).sum() == 14 * 13


@pytest.mark.parametrize("seed", range(5))
def test_buffers_that_live_together_do_not_overlap(seed: int) -> None:
    from compile.native.steps import Gather

    generator = np.random.default_rng(seed)
    tensors, steps, names = {}, [], []
    geometry = Geometry(16, 1, 4, 4, 4, 4, 16, 16)
    for index in range(12):
        name = f"t{index}"
        tensors[name] = Placement(geometry, int(generator.integers(1, 200)))
        source = names[int(generator.integers(max(0, len(names) - 3), len(names)))] if names else "input"
        steps.append(Gather(name, source, plain=not names, step=(1, 1)))
        names.append(name)
    steps.append(Scatter(names[-1]))
    offsets, size = place_buffers(tuple(steps), tensors, {})
    life = {}
    for index, step in enumerate(steps):
        for name in (getattr(step, "source", None), getattr(step, "target", None)):
            if name in tensors:
                low, high = life.get(name, (index, index))
                life[name] = (min(low, index), max(high, index))
    for a in names:
        assert offsets[a] + tensors[a].size <= size
        for b in names:
            together = life[a][0] <= life[b][1] and life[b][0] <= life[a][1]
            if a != b and together:
                apart = offsets[a] + tensors[a].size <= offsets[b] or offsets[b] + tensors[b].size <= offsets[a]
                assert apart
