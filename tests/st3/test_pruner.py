from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import st3
from runtime.errors import UserError
from st3.layers import prunable_weights
from st3.thresholds import sigma


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 3, 2), nn.Flatten(),
        nn.Linear(24 * 9, 10),
    )  # fmt: skip


PICTURES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, pruner: st3.Pruner, steps: int) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        model(PICTURES).square().mean().backward()
        optimizer.step()
        pruner.step((step + 1) / steps)


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.98])
def test_realised_sparsity_is_the_target_within_one_weight(sparsity: float) -> None:
    model = network()
    pruner = st3.attach(model, st3.SparsityPlan(sparsity=sparsity))
    pruner.step(1.0)
    assert abs(pruner.total_sparsity() - sparsity) <= 1 / prunable_weights(model)
    per_layer = pruner.sparsity()
    assert set(per_layer) == {"0", "3", "5"}
    assert len(set(per_layer.values())) > 1, "the threshold is global, so the layers' sparsities are an outcome"


def test_sparsity_zero_is_dense_bit_for_bit() -> None:
    model = network().eval()
    expected = model(PICTURES)
    pruner = st3.attach(model, st3.SparsityPlan(sparsity=0.0))
    pruner.step(1.0)
    assert torch.equal(model(PICTURES), expected)
    assert pruner.total_sparsity() == 0


def test_sparsity_follows_the_cubic_schedule() -> None:
    model = network()
    pruner = st3.attach(model, st3.SparsityPlan(sparsity=0.8, begin=0.2, end=0.6))
    for progress, expected in [(0.1, 0.0), (0.4, 0.8 * 0.875), (0.6, 0.8), (1.0, 0.8)]:
        pruner.step(progress)
        assert pruner.total_sparsity() == pytest.approx(expected, abs=1 / prunable_weights(model))


def test_optimiser_made_before_or_after_attaching() -> None:
    results = []
    for before in (True, False):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9) if before else None
        original = model[3].weight
        pruner = st3.attach(model, st3.SparsityPlan(sparsity=0.7))
        assert model[3].parametrizations.weight.original is original
        optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.1, 0.9)
        start = original.detach().clone()
        train(model, optimizer, pruner, 4)
        assert not torch.equal(original, start), "the latent weight is trained"
        pruner.bake()
        assert model[3].weight is original
        results.append(copy.deepcopy(model.state_dict()))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_gradient_reaches_pruned_weights_through_a_network() -> None:
    model = network()
    pruner = st3.attach(model, st3.SparsityPlan(sparsity=0.9))
    pruner.step(1.0)
    seen: list[Tensor] = []
    effective = model[5].weight
    effective.register_hook(seen.append)
    nn.functional.linear(torch.randn(4, 216), effective).backward(torch.randn(4, 10))
    latent_gradient = model[5].parametrizations.weight.original.grad
    assert torch.equal(latent_gradient, seen[0])
    assert (latent_gradient[effective == 0] != 0).float().mean() > 0.99


def test_sigma_divides_by_the_width() -> None:
    model = network()
    pruner = st3.attach(model, st3.SparsityPlan(sparsity=0.8), method="st3-sigma")
    pruner.step(1.0)
    assert abs(pruner.total_sparsity() - 0.8) <= 1 / prunable_weights(model)
    thresholds = {name: model[int(name)].parametrizations.weight[0].threshold.item() for name in ("0", "3", "5")}
    for name, threshold in thresholds.items():
        shape = tuple(model[int(name)].weight.shape)
        assert threshold == pytest.approx(pruner.threshold.item() * sigma(shape), rel=1e-6)


def test_n_to_m_ramps_and_ends_with_a_valid_pattern() -> None:
    model = network()
    pruner = st3.attach(model, st3.SparsityPlan(pattern="2:4"))
    assert pruner.patterns["0"] == ("dense", "3 input channels cannot be divided into groups of 4")
    seen = []
    for progress in (0.0, 0.05, 0.2, 0.5, 1.0):
        pruner.step(progress)
        seen.append(pruner.sparsity()["3"])
    assert seen == sorted(seen)
    assert seen[0] == 0
    assert 0 < seen[1] < seen[2] < 0.5
    assert seen[-1] == 0.5


def test_exempt_layers_stay_dense_and_say_so() -> None:
    model = network()
    pruner = st3.attach(model, st3.SparsityPlan(sparsity=0.9, exempt=("0",)))
    pruner.step(1.0)
    assert pruner.patterns["0"] == ("dense", "exempt by the plan")
    assert pruner.sparsity()["0"] == 0
    assert pruner.sparsity()["5"] > 0.5


def test_frozen_mask_survives_fine_tuning() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    pruner = st3.attach(model, st3.SparsityPlan(sparsity=0.9))
    train(model, optimizer, pruner, 3)
    pruner.bake()
    zeros = {name: model[int(name)].weight == 0 for name in ("0", "3", "5")}
    kept = model[3].weight[~zeros["3"]].clone()
    train(model, optimizer, pruner, 3)
    assert all((model[int(name)].weight[zeros[name]] == 0).all() for name in zeros)
    assert not torch.equal(model[3].weight[~zeros["3"]], kept)


def test_state_dict_carries_the_thresholds() -> None:
    model, other = network(), network()
    plan = st3.SparsityPlan(sparsity=0.9)
    pruner = st3.attach(model, plan)
    st3.attach(other, plan)
    train(model, torch.optim.SGD(model.parameters(), 0.1), pruner, 3)
    other.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(PICTURES), other.eval()(PICTURES))


def test_attaching_twice_is_refused() -> None:
    model = network()
    st3.attach(model, st3.SparsityPlan(sparsity=0.9))
    with pytest.raises(UserError, match="already attached"):
        st3.attach(model, st3.SparsityPlan(sparsity=0.9))


def test_unknown_method_lists_the_valid_ones() -> None:
    with pytest.raises(
        UserError,
        match="'magic'; choose one of dense, feather, gmp, rigl, s-ste, sr-ste, st3, st3-sigma, ste, str",
    ):
        st3.attach(network(), st3.SparsityPlan(sparsity=0.9), method="magic")


def test_dense_refuses_to_prune() -> None:
    with pytest.raises(UserError, match=r"dense prunes nothing, but sparsity 0\.9"):
        st3.attach(network(), st3.SparsityPlan(sparsity=0.9), method="dense")


@pytest.fixture
def one_process_group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process_group")
def test_trains_the_same_under_distributed_data_parallel() -> None:
    plain, wrapped = network(), network()
    pruners = [st3.attach(model, st3.SparsityPlan(sparsity=0.9)) for model in (plain, wrapped)]
    parallel = nn.parallel.DistributedDataParallel(wrapped)
    train(plain, torch.optim.SGD(plain.parameters(), 0.1), pruners[0], 3)
    train(parallel, torch.optim.SGD(parallel.parameters(), 0.1), pruners[1], 3)
    assert all(
        torch.equal(a, b) for a, b in zip(plain.state_dict().values(), wrapped.state_dict().values(), strict=True)
    )


def test_names_that_fit_no_layer_are_refused_with_near_ones() -> None:
    model = nn.ModuleDict({"stem": nn.Conv2d(3, 8, 3), "classifier": nn.Linear(8, 4)})
    with pytest.raises(UserError, match=r"exempt names 'clasifier', which fits none of the 2 prunable.* classifier"):
        st3.attach(model, st3.SparsityPlan(sparsity=0.5, exempt=("stem", "clasifier")))
    with pytest.raises(UserError, match=r"scope names 'block\*', which fits none"):
        st3.attach(model, st3.SparsityPlan(sparsity=0.5, scope={"block*": 0.9}))


def test_the_classes_of_a_network_are_not_pruned_as_channels_unless_named() -> None:
    plan = st3.SparsityPlan(sparsity=0.5, pattern="channel")
    kind, reason = st3.attach(network(), plan).patterns["5"]
    assert kind == "dense"
    assert "its output channels are the classes" in reason
    named = st3.SparsityPlan(sparsity=0.5, pattern="channel", scope={"5": 0.4})
    pruner = st3.attach(network(), named)
    pruner.step(1.0)
    assert pruner.sparsity() == pytest.approx({"0": 0.5, "3": 0.5, "5": 0.4})


def test_scopes_share_the_zeros_out() -> None:
    for scope, expected in (
        ("uniform", {"0": 0.8, "3": 0.8, "5": 0.8}),
        ({"3": 0.9, "*": 0.5}, {"0": 0.5, "3": 0.9, "5": 0.5}),
    ):
        model = network()
        pruner = st3.attach(model, st3.SparsityPlan(sparsity=0.8, scope=scope))
        pruner.step(1.0)
        assert pruner.sparsity() == pytest.approx(expected, abs=0.003)


def test_a_model_may_be_moved_in_memory_format_without_another_mask() -> None:
    models = [network(), network().to(memory_format=torch.channels_last)]
    for model in models:
        st3.attach(model, st3.SparsityPlan(sparsity=0.9)).step(1.0)
    assert all(torch.equal(models[0][i].weight == 0, models[1][i].weight == 0) for i in (0, 3, 5))
