"""2:4 weights for sparse tensor cores: at most two of each four consecutive input channels of a filter tap are kept."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product, zip_longest
from typing import final

import msgspec
import torch
from torch import Tensor, nn

from compile.cuda.problem import ConvProblem
from runtime.cuda import semi_structured_sm80 as ampere
from runtime.cuda import semi_structured_sm90 as hopper
from runtime.cuda.semi_structured import AMPERE, HOPPER, semi_structured_conv2d
from runtime.cuda.semi_structured_grid import BLOCK_BYTES, Grid, Shape, grid_of, mappable
from runtime.cuda.semi_structured_sm80 import Launch80
from runtime.cuda.semi_structured_sm90 import Launch

BLOCK = 64  # output channels, and input channels of one tap, of a block
_VALUES = BLOCK * BLOCK  # bytes: half of the values, two bytes each
_NIBBLES = (0, 4, 8, 12)  # where the places of four groups lie in 16 bits of metadata
_MOST_TAPS = 64
_MOST, _MOST_LARGE = 11, 7  # of Hopper's launches; fewer where one run takes long
_LARGE_MACS = 10**11
_HOPPER_SHARED_BYTES = 227 * 1024
_MULTIPROCESSORS = 132
_ADD_CYCLES = 16  # to add 64 sums of another block of the cluster: what splitting cost on an H200 (7x7, batch 32)


class Config(msgspec.Struct, frozen=True):
    """``kernel``: ``HOPPER`` or ``AMPERE``; ``launch``: the values of its ``Launch`` or ``Launch80``."""

    kernel: int
    launch: tuple[int, ...]


def reject(weight: Tensor, problem: ConvProblem) -> str | None:
    """What the kernels lack, or that the weight is not 2:4."""
    if problem.dtype == "float32":
        return "float32: sparse tensor cores take float16 and bfloat16"
    if problem.groups != 1:
        return f"{problem.groups} groups: the kernel multiplies all input channels"
    if problem.activation not in ("identity", "relu"):
        return f"activation {problem.activation} is not fused, identity and relu are"
    if problem.channels % 8:
        return f"{problem.channels} input channels are not a multiple of 8, which loads of 16 bytes need"
    if problem.kernel[0] * problem.kernel[1] > _MOST_TAPS:
        return f"a kernel of {problem.kernel[0]}x{problem.kernel[1]} has more than {_MOST_TAPS} taps"
    return not_two_of_four(weight.to(problem.torch_dtype))


def not_two_of_four(weight: Tensor) -> str | None:
    """Where a weight ``(N, C, R, S)`` breaks the pattern along its inputs; ``None`` if it keeps it."""
    channels = weight.shape[1]
    padded = torch.nn.functional.pad(weight != 0, (0, 0, 0, 0, 0, -channels % 4))
    kept = _cut(padded, 1, -1, 4).sum(2)
    broken = int((kept > 2).sum())
    return f"not 2:4: {broken} of {kept.numel()} groups of four inputs keep more than two" if broken else None


def pack(weight: Tensor) -> dict[str, Tensor]:
    """Blocks that both kernels read.

    ``weight``: ``(N / 64, C / 64, R * S, 4608)`` bytes. A block is 4096 bytes of values, 32 kept per channel as cores
    of 64 channels x 8 values (16 bytes), and 128 words of metadata in the order of ``mma.sp`` (PTX ISA, "Sparse matrix
    storage"): word ``32 w + 4 r + q`` holds the places of inputs ``16 q`` to ``16 q + 15`` of channel ``16 w + r`` and,
    in its upper half, of channel ``16 w + r + 8``. ``like``: no value, the weight's dtype.

    A zero that is not kept loses its sign.
    """
    assert not_two_of_four(weight) is None, "reject says what can be packed"
    fours = _cut(_blocks(weight), -1, 16, 4)  # (M, C, T, 64, 16, 4)
    key = 2 * (fours != 0).to(torch.int8) + (fours.view(torch.int16) != 0).to(torch.int8)
    places = key.argsort(dim=-1, descending=True, stable=True)[..., :2].sort(dim=-1).values
    values = fours.gather(-1, places).flatten(-2)  # (M, C, T, 64, 32)
    cores = _cut(values, -1, 4, 8).transpose(-2, -3)  # (M, C, T, 4, 64, 8)
    nibbles = places[..., 0] | places[..., 1] << 2  # (M, C, T, 64, 16)
    quarters = (_cut(nibbles, -1, 4, 4) << torch.tensor(_NIBBLES)).sum(-1)  # (M, C, T, 64, 4)
    rows = _cut(quarters, -2, 4, 2, 8)  # 16 channels, their upper or lower half, channel
    words = rows[..., 0, :, :] | rows[..., 1, :, :] << 16  # (M, C, T, 4, 8, 4)
    words = torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)
    packed = torch.cat([_bytes(cores), _bytes(words)], -1)
    return {"weight": packed.contiguous(), "like": weight.new_empty(0)}


def unpack(buffers: dict[str, Tensor], shape: Sequence[int]) -> Tensor:
    """The weight ``(N, C, R, S)`` that was packed."""
    packed, dtype = buffers["weight"], buffers["like"].dtype
    cores = _cut(packed[..., :_VALUES].contiguous().view(dtype), -1, 4, BLOCK, 8)
    values = cores.transpose(-2, -3).flatten(-2)  # (M, C, T, 64, 32)
    words = _cut(packed[..., _VALUES:].contiguous().view(torch.int32).long(), -1, 4, 8, 4)
    quarters = torch.stack([words & 0xFFFF, (words >> 16) & 0xFFFF], -3).flatten(-4, -2)  # (M, C, T, 64, 4)
    nibbles = (quarters[..., None] >> torch.tensor(_NIBBLES)) & 15
    places = torch.stack([nibbles & 3, nibbles >> 2], -1).flatten(-3, -2)  # (M, C, T, 64, 16, 2)
    blocks = values.new_zeros(*values.shape[:-1], 16, 4)
    blocks.scatter_(-1, places, _cut(values, -1, 16, 2))
    dense = blocks.flatten(-2).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    return dense[: shape[0], : shape[1]].reshape(tuple(shape)).contiguous()


def macs_usable(weight: Tensor, problem: ConvProblem) -> int:
    """Half of what whole blocks hold."""
    del weight
    outputs, channels = (-(-count // BLOCK) * BLOCK for count in (problem.outputs, problem.channels))
    return problem.rows * outputs * channels * problem.kernel[0] * problem.kernel[1] // 2


def configs(problem: ConvProblem) -> tuple[Config, ...]:
    """For the GPU at hand, or for a Hopper where there is none: Hopper's launches, then Ampere's best."""
    most = _MOST if problem.macs < _LARGE_MACS else _MOST_LARGE
    second = [Config(AMPERE, tuple(launch)) for launch in ampere.guesses(problem.input_shape, _shape(problem))]
    if torch.cuda.is_available() and torch.cuda.get_device_capability() != (9, 0):
        return tuple(second)
    staged, direct = (
        sorted(found, key=lambda launch: _cost(problem, launch)) for found in (_launches(problem), _direct(problem))
    )
    turns = [launch for pair in zip_longest(direct, staged) for launch in pair if launch is not None]
    return tuple([Config(HOPPER, tuple(launch)) for launch in turns[:most]] + second[:1])


def module(buffers: dict[str, Tensor], bias: Tensor, problem: ConvProblem, config: Config) -> nn.Module:
    """See ``compile.cuda.format.Format``."""
    return SemiStructuredConv(buffers["weight"], bias, problem, config)


def build(weight: Tensor, problem: ConvProblem, config: Config, arch: str) -> None:
    """NVRTC for the launch; the weight does not matter."""
    del weight
    if config.kernel == HOPPER:
        hopper.image(Launch(*config.launch), problem.torch_dtype)
    else:
        ampere.image(Launch80(*config.launch), problem.torch_dtype, arch)


@final
class SemiStructuredConv(nn.Module):
    """One call of ``st3::semi_structured_conv2d``."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, problem: ConvProblem, config: Config) -> None:
        super().__init__()
        self.window, self.relu = list(_shape(problem)), problem.activation == "relu"
        self.kernel, self.launch = config.kernel, list(config.launch)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias.float())

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """``activation(conv(x) + bias + residual)``."""
        y: Tensor = semi_structured_conv2d(
            x, self.weight, self.bias, residual, self.window, self.relu, self.kernel, self.launch
        )
        return y


def _shape(problem: ConvProblem) -> Shape:
    return Shape(problem.outputs, *problem.kernel, *problem.stride, *problem.padding, *problem.dilation)


def _cut(tensor: Tensor, dim: int, *sizes: int) -> Tensor:
    made: Tensor = tensor.unflatten(dim, sizes)  # type: ignore[no-untyped-call]
    return made


def _bytes(block: Tensor) -> Tensor:
    """``(M, C, T, ...)`` as ``(M, C, T, bytes)``."""
    return block.contiguous().view(torch.uint8).flatten(3)


def _blocks(weight: Tensor) -> Tensor:
    """``(N, C, R, S)`` as ``(N / 64, C / 64, R * S, 64, 64)``, padded with zeros."""
    outputs, channels = weight.shape[:2]
    padded = weight.new_zeros(-(-outputs // BLOCK) * BLOCK, -(-channels // BLOCK) * BLOCK, *weight.shape[2:])
    padded[:outputs, :channels] = weight
    return _cut(_cut(padded.flatten(2), 0, -1, BLOCK), 2, -1, BLOCK).permute(0, 2, 4, 1, 3)


def _launches(problem: ConvProblem) -> list[Launch]:
    """Hopper's with weights in shared memory, in which all fits: registers, shared memory, a tensor map's limits."""
    shape, found = _shape(problem), []
    outputs, channels = -(-problem.outputs // BLOCK), -(-problem.channels // BLOCK)
    pointwise = problem.kernel == (1, 1)
    for (tiles, groups), pixels, split, gather, resident in product(
        ((1, 2), (2, 2), (1, 1)), (32, 64, 96, 112, 128, 160, 192, 224, 256), (1, 2, 4), (0, 1), (1, 2)
    ):
        if tiles * groups >= 2 * outputs or (gather and pointwise) or pixels % (8 * split):
            continue
        grid = grid_of(shape, problem.height, problem.width, bool(gather))
        threads, sums = 128 * groups + 64, tiles * pixels // 2
        if channels * len(grid.groups) < split or sums > 128 or sums + 36 > 65536 // (threads * resident):
            continue
        if not mappable(shape, problem.height, problem.width, grid):
            continue
        each = tuple(range(8, 3, -1)) if gather or pointwise else tuple(range(8, 2, -1))
        options = (
            Launch(
                tiles, groups, pixels, stages, stages if gather or pointwise else patches, 1, split, gather, resident
            )
            for stages, patches in product(each, (4, 3, 2))
        )
        found += [launch for launch in options if _fits(launch, grid)][:1]
    return found


def _direct(problem: ConvProblem) -> list[Launch]:
    """Hopper's in which warps read weights into their registers, and all shared memory is for patches.

    Two blocks share patches by multicast where each tap needs a patch of its own, in 1x1 convolutions. On an H200 that
    won for 2048 to 512 channels at 7x7, batch 128 (20.1 us, 24.0 without it), and lost for most 3x3 convolutions.
    """
    shape, found = _shape(problem), []
    outputs, channels = -(-problem.outputs // BLOCK), -(-problem.channels // BLOCK)
    pointwise = problem.kernel == (1, 1)
    for groups, pixels, share, split, gather, resident in product(
        (2, 1), (32, 64, 96, 112, 128, 160, 192, 208, 224, 256), (1, 2), (1, 2, 4), (0, 1), (1, 2)
    ):
        if groups >= 2 * outputs or (gather and pointwise) or pixels % (8 * split):
            continue
        if share > 1 and not (pointwise and -(-outputs // groups) % share == 0):
            continue
        grid = grid_of(shape, problem.height, problem.width, bool(gather))
        if channels * len(grid.groups) < split or not mappable(shape, problem.height, problem.width, grid):
            continue
        deep = _depth(Launch(1, groups, pixels, 0, 2, share, split, gather, resident))
        if deep is None:
            continue
        options = (
            Launch(1, groups, pixels, 0, stages, share, split, gather, resident, deep) for stages in range(8, 1, -1)
        )
        found += [launch for launch in options if _fits(launch, grid)][:1]
    return found


def _depth(launch: Launch) -> int | None:
    """``deep`` of a launch that reads weights into registers; ``None`` where its registers do not suffice at all."""
    warps = -(-launch.resident * launch.threads // 128)  # of a quarter of a multiprocessor: 512 registers a lane
    given = launch.threads > 128 * launch.warpgroups + 32  # the copying warps give theirs away
    room = 240 if given else 512 // warps // 8 * 8
    if launch.pixels // 2 + 76 <= room:
        return 1
    return 0 if launch.pixels // 2 + 56 <= room else None


def _fits(launch: Launch, grid: Grid) -> bool:
    taken = hopper.shared_bytes(launch, hopper.patch_rows(launch, grid)) + 1024
    return taken * launch.resident <= _HOPPER_SHARED_BYTES + 1024


def _cost(problem: ConvProblem, launch: Launch) -> float:
    """A guess at the cycles that a launch takes: see the head of ``semi_structured_sm90.cu`` for what bounds it."""
    grid = grid_of(_shape(problem), problem.height, problem.width, bool(launch.gather))
    rows, blocks_m = hopper.patch_rows(launch, grid), launch.tiles * launch.warpgroups
    columns = -(-problem.batch * grid.height * grid.width // launch.pixels)
    blocks = columns * -(-problem.outputs // (BLOCK * blocks_m)) * launch.split
    chunks = -(-problem.channels // BLOCK)
    steps, patches = chunks * len(grid.taps) / launch.split, chunks * len(grid.groups) / launch.split
    weights = blocks_m * BLOCK_BYTES
    staged = 32 * blocks_m + weights / 128 if launch.weight_stages else 0.0  # weights written to shared memory and read
    shared = steps * (blocks_m * launch.pixels + staged) + patches * rows
    second_level = (steps * weights + patches * rows * 128 / launch.share) / 30
    alone = 1.0 if launch.resident > 1 else 1.15  # what one block waits for, another computes in
    end = launch.pixels * blocks_m * (2 + _ADD_CYCLES * (launch.split - 1))
    work = max(shared * alone, second_level) + end + 1500 / launch.resident
    waves = -(-blocks // (_MULTIPROCESSORS * launch.resident)) * launch.resident
    return waves * work
