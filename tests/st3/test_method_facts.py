"""What each method's paper says, on numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import st3
from runtime.errors import UserError
from st3.methods import rigl
from st3.methods.feather import theta
from st3.parametrization import SparseWeight

ROW = [4.0, -1.0, 3.0, -2.0, 0.5, -6.0, 5.0, 1.5]


def linear(*rows: list[float]) -> nn.Linear:
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows))
    return layer


def put(
    plan: st3.SparsityPlan, method: str, *rows: list[float], progress: float | None = 1.0
) -> tuple[nn.Sequential, st3.Pruner, nn.Parameter]:
    model = nn.Sequential(linear(*rows))
    pruner = st3.attach(model, plan, method)
    if progress is not None:
        pruner.step(progress)
    return model, pruner, model[0].parametrizations.weight.original


def gradient(model: nn.Sequential, latent: nn.Parameter, incoming: list[float]) -> list[float]:
    latent.grad = None
    model[0].weight.backward(torch.tensor([incoming]))
    assert latent.grad is not None
    return latent.grad[0].tolist()


INCOMING = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("st3", INCOMING),
        ("st3-sigma", INCOMING),
        ("ste", INCOMING),
        ("feather", INCOMING),
        ("gmp", [1, 0, 3, 0, 0, 6, 7, 0]),
        ("str", [1, 0, 3, 0, 0, 6, 7, 0]),
        ("rigl", INCOMING),
    ],
)
def test_gradients_at_half_sparsity(method: str, expected: list[float]) -> None:
    # magnitudes 0.5, 1, 1.5, 2 fall, 3, 4, 5, 6 stay
    plan = st3.SparsityPlan(sparsity=0.5, scope="uniform" if method == "rigl" else "global")
    model, _, latent = put(plan, method, ROW)
    assert [value != 0 for value in model[0].weight[0].tolist()] == [1, 0, 1, 0, 0, 1, 1, 0]
    assert gradient(model, latent, INCOMING) == expected


def test_feather_halves_pruned_gradients_only_above_95_per_cent() -> None:
    assert [theta(s) for s in (0.5, 0.95, 0.951, 0.98)] == [1, 1, 0.5, 0.5]
    rows = [[float(10 * i + j + 1) for j in range(10)] for i in range(10)]
    model, _, latent = put(st3.SparsityPlan(sparsity=0.97), "feather", *rows)
    model[0].weight.sum().backward()
    assert latent.grad is not None
    assert torch.equal(latent.grad, torch.where(latent > 97.5, 1.0, 0.5))


def test_effective_weights_of_a_2_to_4_pattern() -> None:
    # groups (4, 1, 3, 2) and (0.5, 6, 5, 1.5): thresholds 2 and 1.5
    soft = torch.tensor([[2.0, 0, 1, 0, 0, -4.5, 3.5, 0]])
    plan, row = st3.SparsityPlan(pattern="2:4"), torch.tensor(ROW)
    beta = float((row * soft).sum() / soft.square().sum())
    assert beta == pytest.approx((8 + 3 + 27 + 17.5) / (4 + 1 + 20.25 + 12.25))
    torch.testing.assert_close(put(plan, "s-ste", ROW)[0][0].weight, beta * soft)
    assert put(plan, "sr-ste", ROW)[0][0].weight.tolist() == [[4, 0, 3, 0, 0, -6, 5, 0]]
    assert put(plan, "ste", ROW)[0][0].weight.tolist() == [[4, 0, 3, 0, 0, -6, 5, 0]]
    ratio = (18 / 8 + 1e-6) / (23 / 8 + 1e-6)
    torch.testing.assert_close(put(plan, "st3", ROW)[0][0].weight, 1.01 / (ratio + 0.01) * soft)


def test_s_ste_freezes_its_scale_at_the_start() -> None:
    model, pruner, latent = put(st3.SparsityPlan(pattern="2:4"), "s-ste", ROW)
    before = model[0].weight.clone()
    with torch.no_grad():
        latent[0, 0] = 40.0
    pruner.step(1.0)
    beta = before[0, 2].item() / 1.0
    assert model[0].weight[0, 0].item() == pytest.approx(beta * 38)


@pytest.mark.parametrize("method", ["sr-ste", "s-ste"])
def test_the_patterns_of_sr_ste_and_s_ste_hold_from_the_first_forward(method: str) -> None:
    model, _, _ = put(st3.SparsityPlan(pattern="2:4", begin=0.5, end=0.9), method, ROW, progress=None)
    assert int((model[0].weight == 0).sum()) == 4


def test_sr_ste_decays_pruned_weights_by_lambda() -> None:
    model, pruner, latent = put(st3.SparsityPlan(pattern="2:4"), "sr-ste", ROW)
    gradient(model, latent, [0.0] * 8)
    pruner.adjust_gradients()
    assert latent.grad is not None
    expected = [0, -1 * 2e-4, 0, -2 * 2e-4, 0.5 * 2e-4, 0, 0, 1.5 * 2e-4]
    torch.testing.assert_close(latent.grad[0], torch.tensor(expected))


def test_str_shares_the_zeros_out_by_learned_thresholds() -> None:
    model = nn.Sequential(linear([1.0, 2.0, 3.0, 4.0]), linear([1.0, 2.0, 3.0, 4.0], [1.5, 2.5, 3.5, 4.5]))
    pruner = st3.attach(model, st3.SparsityPlan(sparsity=0.5), "str")
    first, second = pruner.parameters()
    with torch.no_grad():
        first.fill_(math.log(3))  # g = 0.75 against 0.5
    pruner.step(1.0)
    # |w| / g: 4/3, 8/3, 4, 16/3 and 2, 3, 4, 4, 5, 6, 7, 8, 9 by halves: the sixth and seventh of twelve are 4 and 5
    scores = sorted([w / 0.75 for w in (1, 2, 3, 4)] + [w / 0.5 for w in (1, 2, 3, 4, 1.5, 2.5, 3.5, 4.5)])
    tau = (scores[5] + scores[6]) / 2
    assert pruner.threshold.item() == pytest.approx(tau)
    torch.testing.assert_close(model[0].weight, torch.tensor([[max(0.0, w - tau * 0.75) for w in (1, 2, 3, 4)]]))
    model[0].weight.backward(torch.tensor([[1.0, 10.0, 100.0, 1000.0]]))
    kept = sum(g for w, g in zip((1, 2, 3, 4), (1, 10, 100, 1000), strict=True) if w > tau * 0.75)
    # dw/ds = -sign(w) m tau g'(s), g' = g (1 - g)
    assert first.grad is not None
    assert first.grad.item() == pytest.approx(-kept * tau * 0.75 * 0.25, rel=1e-5)
    assert second.grad is None
    assert pruner.weight_decay == 0


def test_rigl_fraction_is_equation_1() -> None:
    assert rigl.fraction(0.0) == pytest.approx(0.3)
    assert rigl.fraction(0.375) == pytest.approx(0.15)
    assert rigl.fraction(0.25) == pytest.approx(0.15 * (1 + 0.5))
    assert rigl.fraction(0.75) == rigl.fraction(0.9) == 0


def test_rigl_counts_add_up_to_the_target_for_every_scope() -> None:
    shapes = {"a": (16, 3, 3, 3), "b": (24, 16, 3, 3), "c": (10, 24)}
    total = sum(map(math.prod, shapes.values()))
    for scope in ("global", "uniform", "erk"):
        counts = rigl.kept_counts(st3.SparsityPlan(sparsity=0.87, scope=scope), shapes)
        assert sum(counts.values()) == round(0.13 * total)
    erk = rigl.kept_counts(st3.SparsityPlan(sparsity=0.87, scope="erk"), shapes)
    assert rigl.kept_counts(st3.SparsityPlan(sparsity=0.87), shapes) == erk


def rigl_run() -> tuple[nn.Sequential, st3.Pruner, nn.Parameter]:
    row = [float(i + 1) for i in range(20)]
    return put(st3.SparsityPlan(sparsity=0.5, scope="uniform"), "rigl", row, progress=None)


def kept(model: nn.Sequential) -> list[int]:
    module = model[0].parametrizations.weight[0]
    assert isinstance(module, SparseWeight)
    assert isinstance(module.kept, Tensor)
    return module.kept[0].nonzero().flatten().tolist()


def test_rigl_drops_the_smallest_and_grows_where_the_gradient_is_largest() -> None:
    model, pruner, latent = rigl_run()
    assert kept(model) == list(range(10, 20))
    assert pruner.capturable
    pruner.step(0.01)  # the end of an interval: the next gradient is asked for
    assert not pruner.capturable
    incoming = torch.zeros(1, 20)
    incoming[0, [2, 7, 12]] = torch.tensor([5.0, -9.0, 100.0])
    model[0].weight.backward(incoming)
    pruner.adjust_gradients()
    assert latent.grad is not None
    assert latent.grad[0].nonzero().flatten().tolist() == [12], "clipping must not see what is not trained"
    with torch.no_grad():
        latent.add_(0.25)  # stands for the optimiser, whose momentum moves pruned weights too
    pruner.step(0.011)
    # 0.3 of 10 weights: those at 10, 11 and 12 fall, and of the rest 12, 7 and 2 have the largest gradients
    assert kept(model) == [2, 7, *range(12, 20)]
    assert latent[0, [2, 7]].tolist() == [0, 0]
    assert latent[0, 12].item() == 13.25, "dropped and grown again, so it was never away"
    assert latent[0, [0, 10, 11]].tolist() == [0, 0, 0]
    assert pruner.capturable


def test_rigl_ends_its_exchanges_after_three_quarters() -> None:
    model, pruner, latent = rigl_run()
    for progress in (0.76, 0.8, 0.99, 1.0):
        latent.grad = torch.arange(20.0, 0, -1)[None]
        pruner.adjust_gradients()
        pruner.step(progress)
        assert pruner.capturable
    assert kept(model) == list(range(10, 20))


def test_rigl_grows_without_adjusted_gradients_too() -> None:
    model, pruner, latent = rigl_run()
    pruner.step(0.01)
    latent.grad = torch.arange(20.0, 0, -1)[None]
    pruner.step(0.02)
    assert kept(model) == [0, 1, 2, *range(13, 20)]


def test_an_n_to_m_pattern_has_no_scope() -> None:
    with pytest.raises(UserError, match=r"gives every layer the sparsity 0\.5, so the scope erk means nothing"):
        st3.SparsityPlan(pattern="2:4", scope="erk")
