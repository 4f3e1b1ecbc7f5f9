"""Ragged convolutions with random zeros, and their answers in float64: what the unstructured formats are held to."""

from __future__ import annotations

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compile.cuda.problem import ConvProblem

LIMITS = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-3 * 8}
"""Largest relative Frobenius error; bfloat16 has three bits fewer than float16."""


class Case(msgspec.Struct, frozen=True):
    """Tensors of a problem; ``x`` and ``residual`` are channels last, all but ``bias`` in the problem's dtype."""

    problem: ConvProblem
    weight: Tensor
    bias: Tensor
    x: Tensor
    residual: Tensor | None


def make_case(problem: ConvProblem, density: float, seed: int = 0) -> Case:
    """Gaussian tensors; ``density`` of the weights are kept, at random."""
    random = torch.Generator().manual_seed(seed)

    def normal(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=random)

    weight = normal(problem.weight_shape)
    weight *= torch.rand(problem.weight_shape, generator=random) < density
    dtype = problem.torch_dtype
    return Case(
        problem,
        weight.to(dtype),
        normal((problem.outputs,)),
        normal(problem.input_shape).to(dtype).to(memory_format=torch.channels_last),
        normal(problem.output_shape).to(dtype).to(memory_format=torch.channels_last) if problem.residual else None,
    )


def expected(case: Case) -> Tensor:
    """The result in float64, on the device of ``x``."""
    problem, on = case.problem, case.x.device
    wide = [tensor.to(on).double() for tensor in (case.x, case.weight, case.bias)]
    y = F.conv2d(*wide, problem.stride, problem.padding, problem.dilation)
    if case.residual is not None:
        y = y + case.residual.double()
    return y.relu() if problem.activation == "relu" else y


def check(y: Tensor, case: Case) -> None:
    """``y`` is as near to the exact result as its dtype lets it be."""
    wanted = expected(case)
    assert y.shape == wanted.shape
    assert y.dtype == case.problem.torch_dtype
    error = float((y.double() - wanted).norm() / wanted.norm().clamp_min(1e-30))
    assert error < LIMITS[case.problem.dtype], f"relative error {error:.2e}"


def check_replay(module: nn.Module, case: Case) -> None:
    """A CUDA graph of the layer is right on inputs that it was not captured with."""
    module(case.x, case.residual)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = module(case.x, case.residual)
    case.x.normal_()
    y.fill_(float("nan"))
    graph.replay()
    check(y, case)


def poisoned(problem: ConvProblem) -> Tensor:
    """A result that nobody has written yet: NaN."""
    y = torch.full(problem.output_shape, float("nan"), dtype=problem.torch_dtype)
    return y.to(memory_format=torch.channels_last)


def ragged(dtype: str) -> dict[str, ConvProblem]:
    """Problems in which nothing divides anything, by name."""

    def problem(batch: int, channels: int, size: tuple[int, int], outputs: int, **rest: object) -> ConvProblem:
        return msgspec.convert(
            {"batch": batch, "channels": channels, "height": size[0], "width": size[1], "outputs": outputs,
             "dtype": dtype, **rest}, ConvProblem,
        )  # fmt: skip

    three = {"kernel": (3, 3), "padding": (1, 1)}
    return {
        "3x3, one picture": problem(1, 8, (6, 6), 8, **three),
        "3x3, small pictures": problem(9, 12, (5, 5), 10, **three),
        "3x3, residual, relu": problem(2, 40, (7, 7), 20, **three, residual=True, activation="relu"),
        "3x3, stride 2": problem(3, 40, (7, 9), 21, **three, stride=(2, 2), residual=True),
        "3x3, dilation 2": problem(3, 36, (13, 40), 7, kernel=(3, 3), padding=(2, 2), dilation=(2, 2)),
        "3x3, no padding": problem(2, 16, (9, 11), 17, kernel=(3, 3), activation="relu"),
        "5x3, stride 3x2": problem(1, 4, (12, 11), 6, kernel=(5, 3), stride=(3, 2)),
        "1x3, wide": problem(1, 4, (5, 70), 6, kernel=(1, 3), padding=(0, 1)),
        "7x7, three channels": problem(3, 3, (19, 33), 5, kernel=(7, 7), stride=(2, 2), padding=(3, 3)),
        "1x1": problem(5, 70, (5, 5), 9, residual=True, activation="relu"),
        "1x1, stride 2": problem(5, 72, (5, 5), 33, stride=(2, 2)),
        "linear": problem(5, 68, (1, 1), 24),
    }


def on_gpu(case: Case) -> Case:
    """The same with ``x`` and ``residual`` there."""
    residual = None if case.residual is None else case.residual.cuda()
    return msgspec.structs.replace(case, x=case.x.cuda(), residual=residual)
