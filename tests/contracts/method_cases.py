"""Every method with every plan that it takes, on a network in which little divides anything."""

from __future__ import annotations

import math

import torch
from torch import nn

import st3
from st3 import scopes
from st3.patterns import CHANNEL, Pattern
from st3.registry import find_method, method_names

PICTURES = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(3))


PLANS = {
    "zero": st3.SparsityPlan(sparsity=0.0),
    "half": st3.SparsityPlan(sparsity=0.5),
    "nine": st3.SparsityPlan(sparsity=0.9),
    "most": st3.SparsityPlan(sparsity=0.999),
    "uniform": st3.SparsityPlan(sparsity=0.8, scope="uniform"),
    "erk": st3.SparsityPlan(sparsity=0.8, scope="erk"),
    "layers": st3.SparsityPlan(sparsity=0.6, scope={"head": 0.95, "*wise": 0.0}),
    "exempt": st3.SparsityPlan(sparsity=0.9, exempt=("stem",)),
    "2:4": st3.SparsityPlan(pattern="2:4"),
    "1:8": st3.SparsityPlan(pattern="1:8"),
    "3:8": st3.SparsityPlan(pattern="3:8"),
    "1x4": st3.SparsityPlan(sparsity=0.5, pattern="1x4"),
    "1x4-most": st3.SparsityPlan(sparsity=0.98, pattern="1x4"),
    "1x3-erk": st3.SparsityPlan(sparsity=0.8, pattern="1x3", scope="erk"),
    "channel": st3.SparsityPlan(sparsity=0.5, pattern="channel"),
    "channel-zero": st3.SparsityPlan(sparsity=0.0, pattern="channel"),
    "channel-most": st3.SparsityPlan(sparsity=0.97, pattern="channel"),
    "channel-layers": st3.SparsityPlan(sparsity=0.5, pattern="channel", scope={"head": 0.3}),
}


def takes(method: str, plan: st3.SparsityPlan) -> bool:
    """Whether a method defines a plan; dense takes only plans without zeros."""
    found = find_method(method)
    defined = plan.groups.kind in found.PATTERNS and plan.scope_kind in found.SCOPES
    return defined and (method != "dense" or not (plan.target or plan.scope_kind == "per-layer"))


CASES = [(method, plan) for method in method_names() for plan in PLANS if takes(method, PLANS[plan])]


ONE_EACH = [case for case in CASES if case[1] in ("half", "2:4", "1x4", "channel") or case[0] == "dense"]


"""One plan of every pattern that a method takes."""


class Ragged(nn.Module):
    """A stem, a depthwise, a grouped and a pointwise convolution, and a linear layer, of odd sizes; torch's attention
    with its projections in one weight, and with keys of another width in three."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16)
        self.grouped = nn.Conv2d(16, 24, 3, groups=2)
        self.attention = nn.MultiheadAttention(24, 2, batch_first=True)
        self.cross = nn.MultiheadAttention(24, 3, kdim=16, vdim=16, batch_first=True)
        self.pointwise = nn.Conv2d(24, 5, 1)
        self.head = nn.Linear(5 * 25, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.depthwise(torch.relu(self.norm(self.stem(x))))
        keys = y.flatten(2).transpose(1, 2)
        y = torch.relu(self.grouped(y))
        tokens = y.flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        tokens = tokens + self.cross(tokens, keys, keys, need_weights=False)[0]
        y = tokens.transpose(1, 2).reshape(y.shape)
        return self.head(torch.relu(self.pointwise(y)).flatten(1))


class Attend(nn.Module):
    """Attention among a map's pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return self.attention(tokens, tokens, tokens, need_weights=False)[0]


class Run:
    """A model on its way through a training of ``TOTAL`` steps."""

    TOTAL = 6

    def __init__(self, method: str, plan: st3.SparsityPlan) -> None:
        torch.manual_seed(0)
        self.model = Ragged()
        self.pruner = st3.attach(self.model, plan, method)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.05, 0.9, weight_decay=1e-3)

    def go(self, first: int, last: int) -> None:
        for step in range(first, last):
            self.optimizer.zero_grad()
            self.model(PICTURES).square().mean().backward()
            self.pruner.adjust_gradients()
            self.optimizer.step()
            self.pruner.step((step + 1) / self.TOTAL)


def trained(method: str, plan: str) -> tuple[Ragged, st3.Pruner]:
    run = Run(method, PLANS[plan])
    run.go(0, 3)
    run.go(5, 6)
    return run.model.eval(), run.pruner


def same(left: nn.Module, right: nn.Module) -> bool:
    pairs = zip(left.state_dict().items(), right.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def wanted_zeros(plan: st3.SparsityPlan, shapes: dict[str, tuple[int, ...]]) -> float:
    if plan.scope_kind == "global":
        return plan.target * sum(map(math.prod, shapes.values()))
    layers = scopes.layer_sparsities(plan.scope, plan.target, shapes)
    return sum(layers[name] * math.prod(shape) for name, shape in shapes.items())


def group_size(shape: tuple[int, ...], pattern: Pattern) -> int:
    """Weights that are kept or dropped together, at most."""
    if pattern.kind == CHANNEL:
        return math.prod(shape[1:])
    return min(pattern.size, shape[0]) if pattern.kind == "1xN" else 1
