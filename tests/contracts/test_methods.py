"""The same cases over every sparse training method found."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import st3
from st3.layers import prunable_layers
from st3.patterns import obeys, parse_pattern
from st3.registry import method_names

torch.set_num_threads(1)

PICTURES = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(3))
PLANS = {
    "zero": st3.SparsityPlan(sparsity=0.0),
    "half": st3.SparsityPlan(sparsity=0.5),
    "most": st3.SparsityPlan(sparsity=0.999),
    "2:4": st3.SparsityPlan(pattern="2:4"),
    "1:8": st3.SparsityPlan(pattern="1:8"),
}
CASES = [(method, plan) for method in method_names() for plan in PLANS if method != "dense" or PLANS[plan].target == 0]


class Ragged(nn.Module):
    """A stem, a depthwise, a grouped and a pointwise convolution, and a linear layer, of odd sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16)
        self.grouped = nn.Conv2d(16, 24, 3, groups=2)
        self.pointwise = nn.Conv2d(24, 5, 1)
        self.head = nn.Linear(5 * 25, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm(self.stem(x)))
        y = torch.relu(self.grouped(self.depthwise(y)))
        return self.head(torch.relu(self.pointwise(y)).flatten(1))


def trained(method: str, plan: st3.SparsityPlan) -> tuple[Ragged, st3.Pruner]:
    torch.manual_seed(0)
    model = Ragged()
    pruner = st3.attach(model, plan, method)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9, weight_decay=1e-3)
    for step in range(3):
        optimizer.zero_grad()
        model(PICTURES).square().mean().backward()
        optimizer.step()
        pruner.step((step + 1) / 3)
    return model.eval(), pruner


@pytest.mark.parametrize(("method", "plan"), CASES)
def test_reaches_its_target_in_its_pattern(method: str, plan: str) -> None:
    wanted = PLANS[plan]
    model, pruner = trained(method, wanted)
    groups = parse_pattern(wanted.pattern)
    layers = prunable_layers(model)
    assert set(pruner.patterns) == set(layers)
    pruned = {name: layer for name, layer in layers.items() if pruner.patterns[name][0] != "dense"}
    count = sum(layer.weight.numel() for layer in pruned.values())
    zeros = sum(int((layer.weight == 0).sum()) for layer in pruned.values())
    assert all(obeys(layer.weight, groups) for layer in pruned.values())
    assert all(reason for kind, reason in pruner.patterns.values() if kind == "dense")
    assert abs(zeros - wanted.target * count) <= 1


@pytest.mark.parametrize(("method", "plan"), CASES)
def test_baking_changes_no_output_bit(method: str, plan: str) -> None:
    model, pruner = trained(method, PLANS[plan])
    expected, sparsity = model(PICTURES), pruner.sparsity()
    pruner.bake()
    assert torch.equal(model(PICTURES), expected)
    assert pruner.sparsity() == sparsity
    assert type(model.stem) is nn.Conv2d
    assert type(model.head) is nn.Linear
    assert not any("parametrizations" in name for name in model.state_dict())
    for layer in prunable_layers(model).values():
        assert not torch.signbit(layer.weight[layer.weight == 0]).any()


@pytest.mark.parametrize(("method", "plan"), CASES)
def test_a_sparse_model_exports_before_baking(method: str, plan: str) -> None:
    model, _ = trained(method, PLANS[plan])
    program = torch.export.export(model, (PICTURES,))
    torch.testing.assert_close(program.module()(PICTURES), model(PICTURES))


@pytest.mark.parametrize("method", method_names())
def test_a_sparse_model_is_traced_by_the_compiler_without_a_break(method: str) -> None:
    model = Ragged()
    pruner = st3.attach(model, PLANS["zero" if method == "dense" else "half"], method)
    pruner.step(1.0)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    loss = compiled(PICTURES).square().mean()
    loss.backward()
    gradient = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model(PICTURES).square().mean().backward()
    for got, parameter in zip(gradient, model.parameters(), strict=True):
        torch.testing.assert_close(got, parameter.grad)


@pytest.mark.parametrize("method", method_names())
def test_keeps_every_parameter_object_and_bias(method: str) -> None:
    model = Ragged()
    before = {id(parameter) for parameter in model.parameters()}
    pruner = st3.attach(model, PLANS["zero" if method == "dense" else "half"], method)
    assert {id(parameter) for parameter in model.parameters()} == before
    pruner.step(1.0)
    pruner.bake()
    assert {id(parameter) for parameter in model.parameters()} == before
