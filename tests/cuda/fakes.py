"""A sparse format that computes on any machine, and a stopwatch that says what a test wants."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import torch
from torch import Tensor, nn

from compile.cuda.choice import Candidate
from compile.cuda.problem import ConvProblem
from compile.cuda.sites import Site
from compile.cuda.tuning_cache import Timing


class Config(msgspec.Struct, frozen=True):
    """Nothing to choose but a number."""

    size: int


class KeptColumns:
    """Keeps the columns that any output reads; refuses residuals and all activations, which must follow then."""

    Config = Config

    def reject(self, weight: Tensor, problem: ConvProblem) -> str | None:
        if problem.residual or problem.activation != "identity":
            return "no epilogue"
        return "too dense" if (weight != 0).float().mean() > 0.6 else None

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        kept = (weight.flatten(1) != 0).any(0).nonzero().flatten()
        return {"values": weight.flatten(1)[:, kept], "columns": kept, "size": torch.tensor(weight.shape)}

    def unpack(self, buffers: dict[str, Tensor], shape: Sequence[int]) -> Tensor:
        whole = buffers["values"].new_zeros(shape[0], torch.Size(shape[1:]).numel())
        whole[:, buffers["columns"]] = buffers["values"]
        return whole.reshape(tuple(shape))

    def configs(self, problem: ConvProblem) -> tuple[Config, ...]:
        return (Config(1), Config(2))

    def module(self, buffers: dict[str, Tensor], bias: Tensor, problem: ConvProblem, config: Config) -> nn.Module:
        return _Layer(self.unpack(buffers, problem.weight_shape), bias, problem)

    def macs_usable(self, weight: Tensor, problem: ConvProblem) -> int:
        return int((weight.flatten(1) != 0).any(0).sum()) * problem.rows * problem.outputs


class _Layer(nn.Module):
    def __init__(self, weight: Tensor, bias: Tensor, problem: ConvProblem) -> None:
        super().__init__()
        self.problem = problem
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias.to(weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        p = self.problem
        return torch.conv2d(x, self.weight, self.bias, p.stride, p.padding, p.dilation, p.groups)


class FakeStopwatch:
    """Answers with what ``say`` says of a candidate, and counts how often it was asked."""

    def __init__(self, say: Callable[[Site, Candidate], Timing]) -> None:
        self.say, self.asked, self.prepared = say, list[str](), list[str]()

    def prepare(self, wanted: Sequence[tuple[Site, Candidate]]) -> None:
        self.prepared += [site.layer for site, _ in wanted]

    def measure(self, site: Site, candidates: Sequence[Candidate]) -> dict[Candidate, Timing]:
        self.asked.append(site.layer)
        return {candidate: self.say(site, candidate) for candidate in candidates}
