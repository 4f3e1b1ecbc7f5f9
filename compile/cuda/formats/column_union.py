"""Unstructured weights on tensor cores: groups of output channels, each a dense matrix of the columns it reads.

Pays only where next to nothing is left. On an H100, ResNet-50 pruned at random positions, batch 32, it lost to cuDNN
on every layer in which groups of 16 channels kept 2 % of the columns or more (36 to 88 us against 12 to 20), in
float32 as well (226 against 166): gathering costs more than tensor cores save. At 0.07 % it took 7.3 against 18.9.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compile.cuda.compressed import Buffers, compress, expand, places
from compile.cuda.problem import ConvProblem

WORTH_IT = 0.005
"""Share of the columns kept by groups of 16 channels past which dense was faster; between what won and what lost."""

_SEED_GROUP = 16  # channels that are clustered; the least that a tensor core's product has
_CLUSTERED = 0.97  # an order of channels must keep at most this share of what the given order keeps


class ColumnUnionConfig(msgspec.Struct, frozen=True):
    """How the kernel is cut.

    ``tile`` pixels times ``group`` output channels a program; ``block`` columns of one tap a step, in runs of ``grain``
    input channels.
    """

    tile: int
    group: int
    block: int
    grain: int
    warps: int
    stages: int


class Arranged(msgspec.Struct, frozen=True):
    """What the kernel reads; as ``runtime.cuda.column_union.column_union`` takes it."""

    weights: Tensor
    channels: NDArray[np.int32]
    taps: NDArray[np.int32]
    starts: NDArray[np.int32]
    order: NDArray[np.int32]
    permuted: bool


def reject(weight: Tensor, problem: ConvProblem) -> str | None:
    """Groups, an activation that is not fused, or channels that have too few zeros in common."""
    if problem.groups != 1:
        return f"{problem.groups} groups: the output channels of a product read the same input"
    if problem.activation not in ("identity", "relu"):
        return f"activation {problem.activation} is not fused, identity and relu are"
    share = kept_columns(weight, _SEED_GROUP) / max(1, weight[0].numel())
    if share > WORTH_IT:
        return (
            f"groups of {_SEED_GROUP} output channels keep {share:.4f} of the columns; past {WORTH_IT} dense was faster"
        )
    return None


def pack(weight: Tensor) -> Buffers:
    """``values``, ``columns`` and ``rows`` of ``compress``, and ``order`` ``(N,)`` int32: like ones side by side."""
    return compress(weight) | {"order": torch.from_numpy(cluster(weight))}


def unpack(buffers: Buffers, shape: Sequence[int]) -> Tensor:
    """The exact weight that was packed."""
    return expand(buffers, shape)


def macs_usable(weight: Tensor, problem: ConvProblem) -> int:
    """One multiply-add for each column that a group of 16 channels keeps, channel of the group, and pixel."""
    groups = -(-problem.outputs // _SEED_GROUP)
    return int(kept_columns(weight, _SEED_GROUP) * groups * _SEED_GROUP * problem.rows)


def configs(problem: ConvProblem) -> tuple[ColumnUnionConfig, ...]:
    """Finest grain first: it keeps the fewest columns; coarser ones read whole lines."""
    found = []
    least = 16 if problem.dtype == "float32" else 32
    for grain, group in product((1, 8, 16, 32), (16, 32, 64)):
        if problem.channels % grain or group > max(16, problem.outputs):
            continue
        block = max(least, grain)
        for tile in (128, 64):
            if tile * group <= 8192 and problem.rows > tile // 2:
                found.append(ColumnUnionConfig(tile, group, block, grain, 4, 3))
    return tuple(found) or (ColumnUnionConfig(16, 16, 16, 1, 1, 2),)


def build(weight: Tensor, problem: ConvProblem, config: ColumnUnionConfig, arch: str) -> None:
    """Nothing: Triton compiles when it is called."""
    del weight, problem, config, arch


def module(buffers: Buffers, bias: Tensor, problem: ConvProblem, config: ColumnUnionConfig) -> nn.Module:
    """See ``compile.cuda.format.Format``."""
    return ColumnUnionConv(arrange(buffers, problem, config), bias, problem, config)


class ColumnUnionConv(nn.Module):
    """One call of ``st3::column_union``."""

    weights: Tensor
    channels: Tensor
    taps: Tensor
    starts: Tensor
    order: Tensor
    bias: Tensor

    def __init__(self, arranged: Arranged, bias: Tensor, problem: ConvProblem, config: ColumnUnionConfig) -> None:
        super().__init__()
        self.shape = list(problem.output_shape)
        self.cut = [
            config.tile, config.group, config.block, config.grain, *problem.stride, int(problem.is_pointwise),
            int(arranged.permuted), int(problem.activation == "relu"), config.warps, config.stages,
        ]  # fmt: skip
        self.register_buffer("weights", arranged.weights)
        for name in ("channels", "taps", "starts", "order"):
            self.register_buffer(name, torch.from_numpy(getattr(arranged, name)))
        self.register_buffer("bias", bias.float())

    def tensors(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor | None, ...]:
        """The op's first arguments."""
        own = (self.weights, self.channels, self.taps, self.starts, self.order, self.bias)
        return (x, *own, residual)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """``activation(conv(x) + bias + residual)``."""
        from runtime.cuda.column_union import column_union

        y: Tensor = column_union(*self.tensors(x, residual), self.shape, self.cut)
        return y


def arrange(buffers: Buffers, problem: ConvProblem, config: ColumnUnionConfig) -> Arranged:
    """Each group's columns tap by tap, every tap's filled up to whole blocks with weights of zero."""
    group, block, grain = config.group, config.block, config.grain
    order = buffers["order"].numpy().astype(np.int64)
    groups = -(-len(order) // group)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    row, channel, tap_r, tap_s = places(buffers, problem.kernel)
    taps, runs = problem.kernel[0] * problem.kernel[1], problem.channels // grain
    tap, run = tap_r * problem.kernel[1] + tap_s, channel // grain

    # a key is a run of a tap of a group; keys ascend group by group, tap by tap
    keys, of_value = np.unique((place[row] // group * taps + tap) * runs + run, return_inverse=True)
    part = keys // runs  # a tap of a group
    counts = np.bincount(part, minlength=groups * taps)
    per_step = block // grain
    steps = -(-counts // per_step)
    first_step = np.concatenate([[0], np.cumsum(steps)])
    slot = first_step[part] * per_step + np.arange(len(keys)) - (np.cumsum(counts) - counts)[part]

    channels = np.zeros(first_step[-1] * per_step, np.int32)  # what fills up reads a channel that is there
    channels[slot] = keys % runs
    step_tap = np.repeat(np.arange(groups * taps) % taps, steps)
    moves = np.stack([
        step_tap // problem.kernel[1] * problem.dilation[0] - problem.padding[0],
        step_tap % problem.kernel[1] * problem.dilation[1] - problem.padding[1],
    ], axis=1)  # fmt: skip
    weights = torch.zeros(first_step[-1] * block, group, dtype=buffers["values"].dtype)
    column = slot[of_value] * grain + channel % grain
    weights[torch.from_numpy(column), torch.from_numpy(place[row] % group)] = buffers["values"]
    padded = np.full(groups * group, -1, np.int32)
    padded[: len(order)] = order
    return Arranged(
        weights.reshape(-1, block, group),
        channels.reshape(-1, per_step),
        moves.astype(np.int32),
        first_step[::taps].astype(np.int32),
        padded,
        bool((order != np.arange(len(order))).any()),
    )


def kept_columns(weight: Tensor, group: int, grain: int = 1, order: NDArray[np.int32] | None = None) -> float:
    """Columns that a group keeps, the mean over groups of ``group`` output channels in the given or clustered order."""
    kept = support(weight)[cluster(weight) if order is None else order]
    if grain > 1:
        cut = weight.shape[1] // grain * grain
        shaped = kept.reshape(len(kept), weight.shape[1], -1)[:, :cut].reshape(
            len(kept), -1, grain, kept.shape[1] // weight.shape[1]
        )
        kept = np.repeat(shaped.any(axis=2, keepdims=True), grain, axis=2).reshape(len(kept), -1)
    firsts = np.arange(0, len(kept), group)
    return float(np.logical_or.reduceat(kept, firsts, axis=0).sum()) / len(firsts)


def support(weight: Tensor) -> NDArray[np.bool_]:
    """``(N, C*R*S)``, where a weight is kept."""
    kept: NDArray[np.bool_] = (weight != 0).reshape(len(weight), -1).numpy()
    return kept


def cluster(weight: Tensor) -> NDArray[np.int32]:
    """An order of the output channels in which 16 at a time share columns; the given one where that is as good.

    Greedy: a group begins with the channel of most non-zeros that is left and takes, one at a time, the channel that
    adds the fewest columns to it. Channels without a non-zero come last.
    """
    kept = support(weight)
    given = np.arange(len(kept), dtype=np.int32)
    counts = kept.sum(axis=1)
    if counts.sum() > 0.5 * kept.size:
        return given
    by_column = np.ascontiguousarray(kept.T).astype(np.float32)
    left = counts > 0
    order: list[int] = []
    while left.any():
        union = np.zeros(kept.shape[1], np.bool_)
        shared = np.zeros(len(kept), np.float32)
        for member in range(min(_SEED_GROUP, int(left.sum()))):
            score = counts if member == 0 else shared - counts
            pick = int(np.argmax(np.where(left, score, -np.inf)))
            order.append(pick)
            left[pick] = False
            new = kept[pick] & ~union
            shared += by_column[new].sum(axis=0)
            union |= new
    found = np.concatenate([np.array(order, np.int32), given[counts == 0]])
    clustered = kept_columns(weight, _SEED_GROUP, order=found)
    return found if clustered <= _CLUSTERED * kept_columns(weight, _SEED_GROUP, order=given) else given
