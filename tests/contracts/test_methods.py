"""The same cases over every sparse training method found."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from method_cases import CASES, ONE_EACH, PICTURES, PLANS, Attend, Ragged, Run, group_size, same, trained, wanted_zeros
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import st3
from runtime.errors import UserError
from st3 import patterns, scopes
from st3.layers import prunable_layers
from st3.patterns import obeys
from st3.registry import check, find_method, method_names


@pytest.mark.parametrize(("method", "plan"), CASES)
def test_reaches_its_target_in_its_pattern_and_bakes_the_same_bits(method: str, plan: str) -> None:
    wanted = PLANS[plan]
    model, pruner = trained(method, plan)
    layers = prunable_layers(model)
    assert set(pruner.patterns) == set(layers)
    assert all(reason for kind, reason in pruner.patterns.values() if kind == "dense")
    pruned = {name: layer for name, layer in layers.items() if pruner.patterns[name][0] != "dense"}
    assert pruned or method == "dense"
    shapes = {name: tuple(layer.weight.shape) for name, layer in pruned.items()}
    zeros = sum(int((layer.weight == 0).sum()) for layer in pruned.values())
    step = max([group_size(shape, wanted.groups) for shape in shapes.values()], default=1)
    thresholds = 1 if wanted.scope_kind == "global" or wanted.groups.kind == "N:M" else len(shapes)
    assert abs(zeros - wanted_zeros(wanted, shapes)) <= step * thresholds
    assert all(obeys(layer.weight, wanted.groups) for layer in pruned.values())

    expected, sparsity = model(PICTURES), pruner.sparsity()
    pruner.bake()
    assert torch.equal(model(PICTURES), expected)
    assert pruner.sparsity() == sparsity
    assert type(model.stem) is nn.Conv2d
    assert type(model.head) is nn.Linear
    assert type(model.attention) is type(model.cross) is nn.MultiheadAttention
    assert not any("parametrizations" in name for name in model.state_dict())
    for layer in layers.values():
        assert not torch.signbit(layer.weight[layer.weight == 0]).any()


@pytest.mark.parametrize(("method", "plan"), ONE_EACH)
def test_attention_reads_the_effective_weight_in_its_fast_path_too(method: str, plan: str, fused: list[Any]) -> None:
    model, pruner = trained(method, plan)
    layers = prunable_layers(model)
    assert {"attention.in_proj", "cross.q_proj", "cross.k_proj", "cross.v_proj"} <= set(layers)
    expected = model(PICTURES)
    assert not fused  # torch takes it without gradients alone
    for bake in (False, True):
        if bake:
            pruner.bake()
        with torch.no_grad():
            torch.testing.assert_close(model(PICTURES), expected)
        (weight,) = fused
        assert torch.equal(weight, layers["attention.in_proj"].weight)
        fused.clear()


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The projection of each call of torch's fused attention."""
    seen: list[Any] = []
    native = torch._native_multi_head_attention

    def watched(*given: Any) -> Any:
        seen.append(given[5])
        return native(*given)

    monkeypatch.setattr(torch, "_native_multi_head_attention", watched)
    return seen


@pytest.mark.parametrize(("method", "plan"), ONE_EACH)
def test_a_sparse_model_exports_before_baking_and_after(method: str, plan: str) -> None:
    model, pruner = trained(method, plan)
    expected = model(PICTURES)
    for bake in (False, True):
        if bake:
            pruner.bake()
        program = torch.export.export(model, (PICTURES,))
        torch.testing.assert_close(program.module()(PICTURES), expected)


@pytest.mark.parametrize(("method", "plan"), ONE_EACH)
def test_a_saved_state_goes_on_with_the_same_bits(method: str, plan: str) -> None:
    whole, second = Run(method, PLANS[plan]), Run(method, PLANS[plan])
    whole.go(0, 3)
    with torch.no_grad():
        for parameter in second.model.parameters():
            parameter.add_(torch.randn_like(parameter))  # none of it may be left
    second.go(0, 1)
    second.model.load_state_dict(copy.deepcopy(whole.model.state_dict()))
    second.optimizer.load_state_dict(copy.deepcopy(whole.optimizer.state_dict()))
    whole.go(3, 6)
    second.go(3, 6)
    assert same(whole.model, second.model)


@pytest.mark.parametrize(("method", "plan"), CASES)
def test_an_update_repeated_changes_nothing(method: str, plan: str) -> None:
    run = Run(method, PLANS[plan])
    run.go(0, 2)
    before = copy.deepcopy(run.model)
    run.pruner.update()
    assert same(before, run.model)


def refuse(name: str) -> Callable[..., Any]:
    def raises(*arguments: object, **options: object) -> None:
        raise AssertionError(f"the host waits for the device in Tensor.{name}")

    return raises


@pytest.mark.parametrize(("method", "plan"), CASES)
def test_a_step_never_looks_at_a_value_from_the_host(method: str, plan: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(method, PLANS[plan])
    run.go(0, 1)
    run.model(PICTURES).square().mean().backward()
    with monkeypatch.context() as patch:
        for name in ("item", "tolist", "__bool__", "__float__", "__int__", "__index__", "cpu", "numpy", "nonzero"):
            patch.setattr(torch.Tensor, name, refuse(name))
        for progress in (0.3, 0.6, 1.0):
            run.pruner.adjust_gradients()
            run.pruner.step(progress)


@pytest.mark.parametrize(("method", "plan"), CASES)
def test_no_shape_in_a_step_depends_on_data(method: str, plan: str) -> None:
    # a fake tensor has a shape and no value: whatever depends on one raises
    with FakeTensorMode():
        model = Ragged()
        pruner = st3.attach(model, PLANS[plan], method)
        for progress in (0.3, 1.0):  # in the ramp, and where it has ended
            model(torch.empty(4, 3, 9, 9)).sum().backward()
            pruner.adjust_gradients()
            pruner.aim(progress)
            pruner.update()


@pytest.mark.parametrize(("method", "plan"), ONE_EACH)
def test_masks_follow_from_the_weights_alone(method: str, plan: str) -> None:
    first, second = Run(method, PLANS[plan]), Run(method, PLANS[plan])
    for number, run in enumerate((first, second)):
        for step in range(4):
            torch.manual_seed(100 * number + step)  # as ranks of a distributed run may differ
            run.go(step, step + 1)
    assert same(first.model, second.model)


@pytest.mark.parametrize(("method", "plan"), ONE_EACH)
def test_a_sparse_model_is_traced_by_the_compiler_without_a_break(method: str, plan: str) -> None:
    torch._dynamo.reset()  # it gives up on a function that it has traced for many models
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), Attend(8), nn.Flatten(), nn.Linear(200, 7))
    pruner = st3.attach(model, PLANS[plan], method)
    pruner.step(1.0)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    loss = compiled(PICTURES).square().mean()
    loss.backward()
    gradient = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model(PICTURES).square().mean().backward()
    for got, parameter in zip(gradient, model.parameters(), strict=True):
        torch.testing.assert_close(got, parameter.grad)


@pytest.mark.parametrize(("method", "plan"), ONE_EACH)
def test_keeps_every_parameter_object_and_names_its_own(method: str, plan: str) -> None:
    model = Ragged()
    before = {id(parameter) for parameter in model.parameters()}
    pruner = st3.attach(model, PLANS[plan], method)
    own = {id(parameter) for parameter in pruner.parameters()}
    assert {id(parameter) for parameter in model.parameters()} == before | own
    assert not before & own
    pruner.step(1.0)
    pruner.bake()
    assert {id(parameter) for parameter in model.parameters()} == before


@pytest.mark.parametrize(("method", "plan"), ONE_EACH)
def test_weights_may_be_of_another_type(method: str, plan: str) -> None:
    model = Ragged().double()
    pruner = st3.attach(model, PLANS[plan], method)
    model(PICTURES.double()).sum().backward()
    pruner.adjust_gradients()
    pruner.step(1.0)
    assert all(value.dtype != torch.float32 for value in model.state_dict().values())


@pytest.mark.parametrize("method", method_names())
def test_refuses_what_it_does_not_define_and_lists_the_rest(method: str) -> None:
    found = find_method(method)
    assert set(found.PATTERNS) <= set(patterns.KINDS)
    assert set(found.SCOPES) <= set(scopes.KINDS)
    for plan in PLANS.values():
        kind, scope = plan.groups.kind, plan.scope_kind
        if kind not in found.PATTERNS:
            with pytest.raises(UserError, match=f"pattern {plan.pattern}; it takes {', '.join(found.PATTERNS)}"):
                check(plan, method)
        elif scope not in found.SCOPES:
            with pytest.raises(UserError, match=f"it takes {', '.join(found.SCOPES)}"):
                check(plan, method)


@pytest.mark.parametrize(("method", "plan"), [case for case in ONE_EACH if case[0] != "dense"])
def test_fine_tuning_keeps_the_mask_and_can_be_resumed(method: str, plan: str) -> None:
    run, resumed = Run(method, PLANS[plan]), Run(method, PLANS[plan])
    run.go(0, 6)
    run.pruner.bake()
    masks = {name: layer.weight != 0 for name, layer in prunable_layers(run.model).items()}
    run.go(5, 6)
    resumed.pruner.bake()
    resumed.model.load_state_dict(copy.deepcopy(run.model.state_dict()))
    resumed.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
    resumed.pruner.bake()
    for both in (run, resumed):
        both.go(5, 6)
        assert all((layer.weight[~masks[name]] == 0).all() for name, layer in prunable_layers(both.model).items())
    assert same(run.model, resumed.model)
