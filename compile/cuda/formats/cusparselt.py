"""2:4 weights of 1x1 convolutions and linear layers, multiplied by cuSPARSELt with the algorithm that fits the shape.

cuSPARSELt compresses a weight on the GPU that is to run it, in an order of its own which depends on the GPU and the
library. So the packed weight is the dense one, checked for the pattern; the module compresses it when it is moved to a
GPU, and what is exported from there holds the compressed one: right for the architecture and the torch of an artifact.
"""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, final

import msgspec
import torch
from torch import Tensor, nn

from compile.cuda.formats.semi_structured import not_two_of_four
from compile.cuda.problem import ConvProblem
from runtime.cuda.cusparselt import compress, cusparselt_linear

_MULTIPLE = 16  # of rows, inputs and outputs, for two-byte types
_MOST = 12
_PROBE_S = 120
_failures: list[str] = []


class Config(msgspec.Struct, frozen=True):
    """cuSPARSELt's ``alg_id``, the parts that the sum is cut into, and how these are added (-1: it is not cut)."""

    algorithm: int
    split: int = 1
    mode: int = -1


DEFAULT = Config(0)


def reject(weight: Tensor, problem: ConvProblem) -> str | None:
    """What cuSPARSELt lacks, or that the weight is not 2:4."""
    if problem.dtype == "float32":
        return "float32: torch's cuSPARSELt takes float16 and bfloat16"
    if not problem.is_pointwise:
        return "cuSPARSELt multiplies matrices: only a 1x1 convolution of stride 1, without padding or groups, is one"
    if problem.activation not in ("identity", "relu"):
        return f"activation {problem.activation} is not in the op, identity and relu are"
    for what, count in (("input channels", problem.channels), ("outputs", problem.outputs)):
        if count % _MULTIPLE:
            return f"{count} {what} are not a multiple of {_MULTIPLE}"
    if problem.rows % 8:
        return f"{problem.rows} rows are not a multiple of 8"
    broken = not_two_of_four(weight.to(problem.torch_dtype))
    if broken is None and torch.cuda.is_available() and not torch.backends.cusparselt.is_available():
        return "torch finds no cuSPARSELt (libcusparseLt); install nvidia-cusparselt"
    if broken is None and torch.cuda.is_available():
        found = probe(problem)
        return found if isinstance(found, str) else None
    return broken


def pack(weight: Tensor) -> dict[str, Tensor]:
    """The dense weight ``(N, C)``, which is 2:4."""
    assert not_two_of_four(weight) is None, "reject says what can be packed"
    return {"weight": weight.flatten(1).clone()}


def unpack(buffers: dict[str, Tensor], shape: Sequence[int]) -> Tensor:
    """The weight that was packed."""
    return buffers["weight"].reshape(tuple(shape))


def macs_usable(weight: Tensor, problem: ConvProblem) -> int:
    """Half of all."""
    del weight
    return problem.macs // 2


def configs(problem: ConvProblem) -> tuple[Config, ...]:
    """What cuSPARSELt's own search finds fastest, its default and its other algorithms; the default without a GPU."""
    if not torch.cuda.is_available():
        return (DEFAULT,)
    found = probe(problem)
    assert not isinstance(found, str), "reject says where the library fails"
    algorithm, split, mode, most = found
    others = (Config(other) for other in range(most))
    return tuple(dict.fromkeys((Config(algorithm, split, mode), DEFAULT, Config(algorithm), *others)))[:_MOST]


@functools.cache
def probe(problem: ConvProblem) -> tuple[int, int, int, int] | str:
    """What the library's search finds for a product, or why it cannot be used.

    It runs in a process of its own: cuSPARSELt 0.8 on an H200 ended in an illegal instruction, after which a process
    can use its GPU no more. Once it has failed so, it is not tried again.
    """
    if _failures:
        return _failures[0]
    sizes = (problem.outputs, problem.channels, problem.rows)
    command = [sys.executable, "-m", "compile.cuda.cusparselt_probe", *map(str, sizes), problem.dtype]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_S, check=True)
        return msgspec.json.decode(done.stdout.splitlines()[-1], type=tuple[int, int, int, int])
    except (subprocess.SubprocessError, msgspec.MsgspecError, IndexError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        errors = [line for line in said if "Error" in line] or said[-1:] or [type(error).__name__]
        _failures.append(f"cuSPARSELt fails on this GPU: {errors[0][:160]}")
        return _failures[0]


def build(weight: Tensor, problem: ConvProblem, config: Config, arch: str) -> None:
    """Nothing: the library comes compiled."""
    del weight, problem, config, arch


def module(buffers: dict[str, Tensor], bias: Tensor, problem: ConvProblem, config: Config) -> nn.Module:
    """See ``compile.cuda.format.Format``; the bias is held in the problem's dtype, which is what cuSPARSELt takes."""
    return CuSparseLtLinear(buffers["weight"], bias.to(problem.torch_dtype), problem, config)


@final
class CuSparseLtLinear(nn.Module):
    """One call of ``st3::cusparselt_linear``; on a GPU its weight is compressed, and stays so."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, problem: ConvProblem, config: Config) -> None:
        super().__init__()
        self.relu, self.config, self.compressed = problem.activation == "relu", config, False
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> CuSparseLtLinear:
        """What ``to`` and ``cuda`` call."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.weight.is_cuda and not self.compressed:
            self.weight, self.compressed = compress(self.weight), True
        return self

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """``activation(conv(x) + bias + residual)``."""
        chosen = (self.config.algorithm, self.config.split, self.config.mode)
        y: Tensor = cusparselt_linear(x, self.weight, self.bias, residual, self.relu, *chosen)
        return y
