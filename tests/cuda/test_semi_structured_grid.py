"""Geometry of 2:4 convolutions, and the launches that are offered for it."""

from __future__ import annotations

from itertools import product

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sparse24_cases import RAGGED, REAL, shape_of
from torch import Tensor

from compile.cuda.formats import semi_structured
from compile.cuda.problem import ConvProblem
from runtime.cuda import semi_structured_sm90 as hopper
from runtime.cuda.semi_structured import AMPERE, HOPPER
from runtime.cuda.semi_structured_grid import Shape, boxes, grid_of, mappable, output_size
from runtime.cuda.semi_structured_sm80 import Launch80
from runtime.cuda.semi_structured_sm90 import Launch

_THREE = {"kernel": (3, 3), "padding": (1, 1)}
_HALVING = _THREE | {"stride": (2, 2)}
FASTEST = [  # on an H200
    (ConvProblem(32, 256, 14, 14, 256, **_THREE), Launch(1, 2, 112, 8, 4)),
    (ConvProblem(32, 256, 28, 28, 256, **_HALVING), Launch(1, 2, 112, 8, 4)),
    (ConvProblem(32, 512, 7, 7, 512, **_THREE), Launch(1, 2, 128, 0, 6, split=2)),
    (ConvProblem(128, 256, 14, 14, 256, **_THREE), Launch(1, 2, 224, 5, 3)),
    (ConvProblem(128, 512, 7, 7, 512, **_THREE), Launch(1, 2, 256, 5, 3)),
    (ConvProblem(128, 512, 14, 14, 512, **_HALVING), Launch(1, 2, 256, 5, 3)),
    (ConvProblem(1, 256, 14, 14, 256, **_THREE), Launch(1, 1, 32, 0, 8, split=4)),
    (ConvProblem(1, 512, 7, 7, 512, **_THREE), Launch(1, 1, 32, 0, 8, split=4)),
    (ConvProblem(128, 2048, 7, 7, 512), Launch(1, 2, 192, 0, 6, share=2)),
]


@pytest.mark.parametrize("name", [*RAGGED, *REAL])
def test_configurations_fit_the_machine(name: str):
    problem = (RAGGED | REAL)[name]
    found = semi_structured.configs(problem)
    assert len(found) == len(set(found))
    kinds = [config.kernel for config in found]
    assert kinds.count(AMPERE) == 1
    assert kinds.count(HOPPER) >= 3
    for config in found:
        if config.kernel == AMPERE:
            assert Launch80(*config.launch).shared_bytes <= 99 * 1024
            continue
        launch = Launch(*config.launch)
        grid = grid_of(shape_of(problem), problem.height, problem.width, bool(launch.gather))
        assert hopper.shared_bytes(launch, hopper.patch_rows(launch, grid)) <= 227 * 1024 // launch.resident
        assert launch.split <= -(-problem.channels // 64) * len(grid.groups)
    large = msgspec.structs.replace(problem, batch=2048 * problem.batch, channels=2048)
    assert len(semi_structured.configs(large)) <= len(found)


@pytest.mark.parametrize(("problem", "fastest"), FASTEST)
def test_what_measured_fastest_is_among_the_first(problem: ConvProblem, fastest: Launch):
    """With at least as many stages as were measured."""
    deepest = {"weight_stages": 0, "patch_stages": 0}
    first = [Launch(*config.launch) for config in semi_structured.configs(problem)[:7]]
    same = [launch for launch in first if launch._replace(**deepest) == fastest._replace(**deepest)]
    same = [launch for launch in same if (launch.weight_stages > 0) == (fastest.weight_stages > 0)]
    assert [launch.weight_stages >= fastest.weight_stages for launch in same] == [True]
    assert same[0].patch_stages >= fastest.patch_stages


def test_only_pointwise_blocks_share_and_whole_clusters_of_them():
    for problem in [*RAGGED.values(), *REAL.values(), *(problem for problem, _ in FASTEST)]:
        found = semi_structured.configs(problem)
        launches = [Launch(*config.launch) for config in found if config.kernel == HOPPER]
        for launch in launches:
            assert launch.share == 1 or problem.kernel == (1, 1)
            assert -(-problem.outputs // launch.channels) % launch.share == 0
            grid = grid_of(shape_of(problem), problem.height, problem.width, bool(launch.gather))
            _, across, parts = hopper.blocks(launch, shape_of(problem), problem.batch, grid)
            assert (across * launch.channels - problem.outputs) < launch.channels
            assert launch.share * parts <= 8  # blocks of a cluster that every Hopper runs


SIZES = ((7, 7), (9, 13), (6, 11))
GEOMETRIES = [
    (kernel, stride, padding, dilation, SIZES[(kernel + stride + padding) % 3])
    for kernel, stride, padding, dilation in product((1, 2, 3, 5), (1, 2, 3), (0, 1, 2, 3), (1, 2))
    if (kernel - 1) * dilation + 1 <= 6 + 2 * padding
]


@pytest.mark.parametrize("gather", [False, True])
def test_a_tap_is_a_shift_of_rows(gather: bool):
    for kernel, stride, padding, dilation, size in GEOMETRIES:
        x, weight = (
            torch.randn(2, 4, *size, dtype=torch.float64),
            torch.randn(3, 4, kernel, kernel, dtype=torch.float64),
        )
        shape = Shape(3, kernel, kernel, stride, stride, padding, padding, dilation, dilation)
        wanted = F.conv2d(x, weight, None, stride, padding, dilation)
        error = (by_patches(x, weight, shape, gather) - wanted).abs().max()
        assert error < 1e-9, f"kernel {kernel}, stride {stride}, padding {padding}, dilation {dilation}, {size}"


def by_patches(x: Tensor, weight: Tensor, shape: Shape, gather: bool, tile: int = 32) -> Tensor:
    """What the Hopper kernel does, with whole matrices for its instructions."""
    batch, channels, height, width = x.shape
    grid = grid_of(shape, height, width, gather)
    out_height, out_width = output_size(shape, height, width)
    y = torch.full((batch, out_height, out_width, shape.outputs), float("nan"), dtype=x.dtype)
    pixels, taps = x.permute(0, 2, 3, 1).reshape(-1, channels), weight.flatten(2)
    for start in range(0, batch * grid.height * grid.width, tile):
        q = torch.arange(start, start + tile + max(grid.rows))
        at_x, at_y, image = q % grid.width, q // grid.width % grid.height, q // grid.width // grid.height
        sums = torch.zeros(tile, shape.outputs, dtype=x.dtype)
        for group, (first_y, first_x) in enumerate(grid.groups):
            iy, ix = at_y * shape.stride_h + first_y, at_x * shape.stride_w + first_x
            inside = (image < batch) & (iy >= 0) & (iy < height) & (ix >= 0) & (ix < width)
            patch = torch.zeros(len(q), channels, dtype=x.dtype)
            patch[inside] = pixels[((image * height + iy) * width + ix)[inside]]
            for t in range(grid.first[group], grid.first[group + 1]):
                sums += patch[grid.rows[t] : grid.rows[t] + tile] @ taps[:, :, grid.taps[t]].T
        at_x, at_y, image = at_x[:tile], at_y[:tile], image[:tile]
        inside = (image < batch) & (at_y < out_height) & (at_x < out_width)
        y[image[inside], at_y[inside], at_x[inside]] = sums[inside]
    return y.permute(0, 3, 1, 2)


@pytest.mark.parametrize("gather", [False, True])
def test_tensor_maps_give_each_tap_its_pixel(gather: bool):
    """The positions that an im2col copy walks (PTX ISA, "Tensor im2col mode"), against the convolution's."""
    for kernel, stride, padding, dilation, (height, width) in GEOMETRIES:
        shape = Shape(3, kernel, kernel, stride, stride, padding, padding, dilation, dilation)
        grid = grid_of(shape, height, width, gather)
        down, across = boxes(shape, height, width, grid)
        assert mappable(shape, height, width, grid)
        assert (height - 1 + down.upper - down.lower) // stride + 1 == grid.height
        assert (width - 1 + across.upper - across.lower) // stride + 1 == grid.width
        y, x = np.indices(output_size(shape, height, width))
        for group, (first_y, first_x) in enumerate(grid.groups):
            offset_y, offset_x = (
                first_y - down.lower,
                first_x - across.lower,
            )  # what the copy is given: 8 bits, unsigned
            assert 0 <= offset_y < 256
            assert 0 <= offset_x < 256
            for t in range(grid.first[group], grid.first[group + 1]):
                q = (grid.height + y) * grid.width + x + grid.rows[t]  # of the second image
                there = (
                    q // grid.width // grid.height,
                    down.lower + q // grid.width % grid.height * stride + offset_y,
                    across.lower + q % grid.width * stride + offset_x,
                )
                r, s = divmod(grid.taps[t], kernel)
                wanted = (np.ones_like(q), y * stride - padding + r * dilation, x * stride - padding + s * dilation)
                inside = [
                    (iy >= 0) & (iy < height) & (ix >= 0) & (ix < width) & (image < 2)
                    for image, iy, ix in (there, wanted)
                ]
                assert np.array_equal(*inside)
                assert all(np.array_equal(a[inside[0]], b[inside[0]]) for a, b in zip(there, wanted, strict=True))


def test_what_a_tensor_map_cannot_say_is_not_offered():
    for problem in (
        ConvProblem(1, 64, 300, 300, 64, (3, 3), padding=(130, 130)),
        ConvProblem(1, 64, 64, 64, 64, (1, 1), stride=(9, 9)),
    ):
        assert not mappable(shape_of(problem), problem.height, problem.width, grid_of(shape_of(problem), 64, 64, True))
        assert {config.kernel for config in semi_structured.configs(problem)} == {AMPERE}
