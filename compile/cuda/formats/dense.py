"""The whole weight: cuDNN or cuBLAS, the baseline and the fallback of every layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import runtime.cuda.dense  # noqa: F401 - registers the ops
from compile.cuda.problem import ConvProblem

PLAIN, FUSED, SPLIT, GEMM = range(4)

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "tanh": torch.tanh,
}
"""As plain torch ops, by the graph's names."""


class Config(msgspec.Struct, frozen=True):
    """Who computes.

    ``PLAIN``: torch's own ops, which Inductor may fuse. ``FUSED``: cuDNN's convolution with bias, residual and ReLU in
    one kernel. ``SPLIT``: cuDNN, then one pass for the epilogue. ``GEMM``: cuBLAS, with bias and ReLU where it can.
    """

    kind: int


def reject(weight: Tensor, problem: ConvProblem) -> str | None:
    """Nothing is refused; what no kernel has follows as plain ops."""
    del weight, problem
    return None


def pack(weight: Tensor) -> dict[str, Tensor]:
    """The weight as it is."""
    return {"weight": weight.clone()}


def unpack(buffers: dict[str, Tensor], shape: Sequence[int]) -> Tensor:
    """The weight."""
    return buffers["weight"].reshape(tuple(shape))


def configs(problem: ConvProblem) -> tuple[Config, ...]:
    """Plain ops always; the kernels of a GPU where the epilogue is theirs."""
    found = [Config(PLAIN)]
    if problem.activation in ("identity", "relu"):
        if problem.is_pointwise:
            found.append(Config(GEMM))
        found.append(Config(SPLIT))
        if problem.activation == "relu":
            found.append(Config(FUSED))
    return tuple(found)


def macs_usable(weight: Tensor, problem: ConvProblem) -> int:
    """All of them."""
    del weight
    return problem.macs


def build(weight: Tensor, problem: ConvProblem, config: Config, arch: str) -> None:
    """Nothing: cuDNN and cuBLAS come compiled."""
    del weight, problem, config, arch


def module(buffers: dict[str, Tensor], bias: Tensor, problem: ConvProblem, config: Config) -> nn.Module:
    """One layer; the bias is held in the problem's dtype, which is what cuDNN and cuBLAS take."""
    return DenseLayer(buffers["weight"], bias.to(problem.torch_dtype), problem, config)


@final
class DenseLayer(nn.Module):
    """``forward(x[, residual])``."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, problem: ConvProblem, config: Config) -> None:
        super().__init__()
        self.problem, self.kind = problem, config.kind
        flat = weight.reshape(len(weight), -1)
        self.register_buffer("weight", flat if self.kind == GEMM else weight.contiguous(memory_format=_LAST))
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """See ``Format.module``."""
        p, ops = self.problem, torch.ops.st3
        window = list(p.stride), list(p.padding), list(p.dilation), p.groups
        y: Tensor
        if self.kind == GEMM:
            y = ops.dense_gemm(x, self.weight, self.bias, residual, p.activation == "relu")
        elif self.kind == FUSED:
            y = ops.dense_fused(x, self.weight, self.bias, residual, *window)
        elif self.kind == SPLIT:
            y = ops.dense_split(x, self.weight, self.bias, residual, *window, p.activation == "relu")
        elif p.is_pointwise and (p.height, p.width) == (1, 1):
            y = F.linear(x.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None]
            y = ACTIVATIONS[p.activation](y if residual is None else y + residual)
        else:
            y = F.conv2d(x, self.weight, self.bias, p.stride, p.padding, p.dilation, p.groups)
            y = ACTIVATIONS[p.activation](y if residual is None else y + residual)
        return y


_LAST = torch.channels_last
