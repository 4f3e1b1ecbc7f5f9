from __future__ import annotations

import pytest
import torch

from st3.formulas import channel_scale, hard_threshold, keep_mask, soft_threshold, straight_through
from st3.methods.st3 import effective
from st3.schedules import cubic

WEIGHT = torch.tensor([[1.0, -2.0, 3.0, -4.0], [0.5, 0.5, -0.5, 0.5]])
THRESHOLD = torch.tensor(2.0)


def test_mask_is_strict() -> None:
    assert keep_mask(WEIGHT, THRESHOLD).tolist() == [[False, False, True, True], [False] * 4]


def test_soft_and_hard_threshold_by_hand() -> None:
    assert soft_threshold(WEIGHT, THRESHOLD).tolist() == [[0, 0, 1, -2], [0, 0, 0, 0]]
    assert hard_threshold(WEIGHT, THRESHOLD).tolist() == [[0, 0, 3, -4], [0, 0, 0, 0]]


def test_pruned_weights_are_positive_zeros() -> None:
    for result in (
        soft_threshold(-WEIGHT, THRESHOLD),
        hard_threshold(-WEIGHT, THRESHOLD),
        effective(-WEIGHT, THRESHOLD),
    ):
        zeros = result[result == 0]
        assert zeros.numel() == 6
        assert not torch.signbit(zeros).any()


def test_soft_threshold_is_continuous_and_the_hard_one_is_not() -> None:
    near = torch.tensor([2.0, 2.0 + 1e-6, -2.0 - 1e-6])
    assert soft_threshold(near, THRESHOLD).abs().max() < 2e-6
    assert hard_threshold(near, THRESHOLD).abs().max() > 1.9


def test_scale_by_hand() -> None:
    # channel 0: kept 3 + 4 of 10 -> r = 0.7; channel 1: nothing kept -> r = 1e-6 / (0.5 + 1e-6)
    scale = channel_scale(WEIGHT, THRESHOLD)
    assert scale.shape == (2, 1)
    assert scale[0].item() == pytest.approx(1.01 / ((1.75 + 1e-6) / (2.5 + 1e-6) + 0.01), rel=1e-6)
    assert scale[1].item() == pytest.approx(1.01 / (1e-6 / (0.5 + 1e-6) + 0.01), rel=1e-5)


@pytest.mark.parametrize(("sparsity", "scale", "l1"), [(0.9, 3.761, 0.1970), (0.98, 13.15, 0.1117)])
def test_scale_and_l1_of_a_gaussian_layer(sparsity: float, scale: float, l1: float) -> None:
    # expected: 1.01 / (r + 0.01) with r = exp(-T^2 / 2), and the truncated mean; a grid of quantiles, since a random
    # sample would need millions of weights for three digits
    weight = torch.special.ndtri((torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000).expand(4, -1)
    threshold = torch.quantile(weight[0].abs(), sparsity)
    found = channel_scale(weight, threshold)
    assert found.mean().item() == pytest.approx(scale, rel=0.005)
    pruned = found * soft_threshold(weight, threshold)
    assert (pruned.abs().sum() / weight.abs().sum()).item() == pytest.approx(l1, rel=0.005)


def test_threshold_zero_changes_no_bit() -> None:
    weight = torch.randn(8, 4, 3, 3)
    assert torch.equal(effective(weight, torch.zeros(())), weight)
    assert torch.equal(channel_scale(weight, torch.zeros(())), torch.ones(8, 1, 1, 1))


def test_straight_through_hands_the_gradient_on_unchanged() -> None:
    weight = WEIGHT.clone().requires_grad_()
    incoming = torch.arange(8.0).reshape(2, 4) - 3
    effective(weight, THRESHOLD).backward(incoming)
    assert weight.grad is not None
    assert torch.equal(weight.grad, incoming)


def test_straight_through_keeps_every_bit_of_the_value() -> None:
    weight, value = torch.randn(1000) * 1e3, torch.randn(1000) * 1e-3
    assert torch.equal(straight_through(value, weight), value)


def test_masked_gradient_of_the_hard_threshold() -> None:
    weight = WEIGHT.clone().requires_grad_()
    hard_threshold(weight, THRESHOLD).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[0, 0, 1, 1], [0, 0, 0, 0]]


def test_cubic_schedule() -> None:
    assert [cubic(t, 0.2, 0.6) for t in (0, 0.2, 0.6, 1)] == [0, 0, 1, 1]
    assert cubic(0.4, 0.2, 0.6) == pytest.approx(1 - 0.5**3)
    assert cubic(0.3, 0.2, 0.6) == pytest.approx(1 - 0.75**3)
    assert [cubic(t, 0.5, 0.5) for t in (0.4, 0.5)] == [0, 1]
