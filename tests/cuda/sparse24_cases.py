"""Convolutions with 2:4 weights in which little divides anything: what the semi-structured formats are held to."""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor
from unstructured_cases import Case, make_case

from compile.cuda.problem import ConvProblem
from runtime.cuda.semi_structured_grid import Shape


def two_of_four(weight: Tensor) -> Tensor:
    """``(N, C, R, S)`` with the two largest of each four inputs kept; C is padded for that."""
    channels = weight.shape[1]
    padded = torch.nn.functional.pad(weight, (0, 0, 0, 0, 0, -channels % 4))
    fours = padded.unflatten(1, (-1, 4))
    least = fours.abs().argsort(dim=2)[:, :, :2]
    return fours.scatter(2, least, 0.0).flatten(1, 2)[:, :channels].contiguous()


def make_sparse(problem: ConvProblem, seed: int = 0) -> Case:
    """Gaussian tensors, the weight 2:4 and such that results are about one."""
    case = make_case(problem, 1.0, seed)
    weight = two_of_four(case.weight.float()) * (2 / problem.reduction) ** 0.5
    return msgspec.structs.replace(case, weight=weight.to(problem.torch_dtype))


def shape_of(problem: ConvProblem) -> Shape:
    return Shape(problem.outputs, *problem.kernel, *problem.stride, *problem.padding, *problem.dilation)


def _problem(batch: int, channels: int, size: tuple[int, int], outputs: int, **rest: object) -> ConvProblem:
    first = {"batch": batch, "channels": channels, "height": size[0], "width": size[1], "outputs": outputs}
    return msgspec.convert(first | rest, ConvProblem)


_THREE = {"kernel": (3, 3), "padding": (1, 1)}
RAGGED = {
    "3x3": _problem(3, 72, (7, 7), 70, **_THREE, activation="relu"),
    "3x3, residual": _problem(2, 200, (14, 14), 129, **_THREE, residual=True, activation="relu"),
    "3x3, 13x9": _problem(2, 64, (13, 9), 64, **_THREE, residual=True),
    "3x3, stride 2": _problem(2, 136, (14, 13), 96, **_THREE, stride=(2, 2), activation="relu"),
    "3x3, dilation 2": _problem(1, 64, (13, 14), 33, kernel=(3, 3), padding=(2, 2), dilation=(2, 2)),
    "3x3, padding 3": _problem(2, 64, (7, 7), 40, kernel=(3, 3), padding=(3, 3), stride=(3, 3), activation="relu"),
    "3x3, no padding": _problem(2, 64, (7, 13), 72, kernel=(3, 3)),
    "5x3": _problem(1, 40, (14, 7), 65, kernel=(5, 3), padding=(2, 0), stride=(2, 1), activation="relu"),
    "1x1": _problem(3, 328, (7, 7), 100, residual=True, activation="relu"),
    "1x1, stride 2": _problem(2, 128, (13, 14), 130, stride=(2, 2)),
    "linear": _problem(37, 264, (1, 1), 90, activation="relu"),
}
REAL = {
    "stage 3": _problem(4, 256, (14, 14), 256, **_THREE, activation="relu"),
    "stage 4": _problem(8, 512, (7, 7), 512, **_THREE, activation="relu"),
    "stage 4, stride 2": _problem(8, 512, (14, 14), 512, **_THREE, stride=(2, 2), activation="relu"),
    "2048 to 512": _problem(8, 2048, (7, 7), 512, activation="relu"),
    "stage 1": _problem(2, 64, (56, 56), 64, **_THREE, residual=True, activation="relu"),
}
