from __future__ import annotations

import pytest
import torch
from torch import Tensor

from st3.formulas import (
    channel_scale,
    damped_straight_through,
    hard_threshold,
    keep_mask,
    least_squares_scale,
    powered_threshold,
    soft_threshold,
    soft_threshold_of_groups,
    straight_through,
)
from st3.methods.st3 import effective
from st3.methods.str import effective as str_effective
from st3.parametrization import SparseWeight
from st3.patterns import parse_pattern, score
from st3.schedules import cubic

WEIGHT = torch.tensor([[1.0, -2.0, 3.0, -4.0], [0.5, 0.5, -0.5, 0.5]])
THRESHOLD = torch.tensor(2.0)


def state(pattern: str = "unstructured", threshold: float = 2.0, weight: Tensor = WEIGHT) -> SparseWeight:
    module = SparseWeight(weight, effective, parse_pattern(pattern), {})
    module.threshold.fill_(threshold)
    return module


def scale(weight: Tensor, threshold: Tensor) -> Tensor:
    return channel_scale(weight.abs(), keep_mask(weight.abs(), threshold), threshold)


def test_mask_is_strict() -> None:
    assert keep_mask(WEIGHT.abs(), THRESHOLD).tolist() == [[False, False, True, True], [False] * 4]


def test_thresholds_by_hand() -> None:
    assert soft_threshold(WEIGHT, THRESHOLD).tolist() == [[0, 0, 1, -2], [0, 0, 0, 0]]
    assert hard_threshold(WEIGHT, WEIGHT.abs(), THRESHOLD).tolist() == [[0, 0, 3, -4], [0, 0, 0, 0]]
    # Feather: (27 - 8)^(1/3) and (64 - 8)^(1/3)
    expected = torch.tensor([[0, 0, 19 ** (1 / 3), -(56 ** (1 / 3))], [0, 0, 0, 0]])
    torch.testing.assert_close(powered_threshold(WEIGHT, WEIGHT.abs(), THRESHOLD), expected)


def test_groups_of_one_are_single_weights() -> None:
    weight = torch.randn(50, 20, generator=torch.Generator().manual_seed(4)).double()
    threshold = torch.tensor(0.7)
    soft = soft_threshold(weight, threshold)
    torch.testing.assert_close(soft_threshold_of_groups(weight, weight.abs(), threshold), soft)
    assert torch.equal(soft_threshold_of_groups(weight, weight.abs(), threshold) == 0, soft == 0)


def test_soft_threshold_of_a_group_by_hand() -> None:
    # mean magnitudes 2.5 and 0.5: the first channel shrinks by 1 - 2 / 2.5
    pruned = soft_threshold_of_groups(WEIGHT, score(WEIGHT, parse_pattern("channel")), THRESHOLD)
    torch.testing.assert_close(pruned, torch.tensor([[0.2, -0.4, 0.6, -0.8], [0, 0, 0, 0]]))
    assert pruned[0].abs().mean().item() == pytest.approx(2.5 - 2.0)


def test_pruned_weights_are_positive_zeros() -> None:
    for result in (
        soft_threshold(-WEIGHT, THRESHOLD),
        hard_threshold(-WEIGHT, WEIGHT.abs(), THRESHOLD),
        powered_threshold(-WEIGHT, WEIGHT.abs(), THRESHOLD),
        effective(-WEIGHT, state()),
    ):
        zeros = result[result == 0]
        assert zeros.numel() == 6
        assert not torch.signbit(zeros).any()


def test_soft_and_powered_thresholds_are_continuous_and_the_hard_one_is_not() -> None:
    near = torch.tensor([2.0, 2.0 + 1e-6, -2.0 - 1e-6])
    assert soft_threshold(near, THRESHOLD).abs().max() < 2e-6
    assert powered_threshold(near, near.abs(), THRESHOLD).abs().max() < 0.03  # its slope is infinite there
    assert hard_threshold(near, near.abs(), THRESHOLD).abs().max() > 1.9


def test_the_power_of_small_weights_does_not_vanish() -> None:
    weight = torch.tensor([2e-14, 1e-14])
    pruned = powered_threshold(weight, weight.abs(), torch.tensor(1.5e-14))
    assert pruned[0].item() == pytest.approx((8 - 1.5**3) ** (1 / 3) * 1e-14, rel=1e-5)
    assert pruned[1] == 0


@pytest.mark.parametrize("pattern", ["1x2", "channel"])
def test_a_group_fades_in_from_zero(pattern: str) -> None:
    weight = torch.tensor([[3.0, 1.0], [1.0, 3.0]])
    weights = score(weight, parse_pattern(pattern)).max().item()
    sizes = [
        effective(weight, state(pattern, threshold, weight)).abs().max().item()
        for threshold in (weights, weights - 1e-4, weights - 1e-2)
    ]
    assert sizes[0] == 0
    assert 0 < sizes[1] < 1e-3
    assert sizes[1] < sizes[2] < 0.1


def test_whole_channels_get_no_scale_and_blocks_one_for_each_channel() -> None:
    whole = effective(WEIGHT, state("channel"))
    torch.testing.assert_close(whole[0], WEIGHT[0] * (1 - 2 / 2.5))
    # blocks of two channels: means 0.75, 1.25, 1.75, 2.25 of the four taps, of which the last lies above 2
    blocks = effective(WEIGHT, state("1x2"))
    first = 1.01 / ((4 / 4 + 1e-6) / (2.5 + 1e-6) + 0.01)
    second = 1.01 / ((0.5 / 4 + 1e-6) / (0.5 + 1e-6) + 0.01)
    shrunk = 1 - 2 / 2.25
    expected = torch.tensor([[0, 0, 0, -4 * shrunk * first], [0, 0, 0, 0.5 * shrunk * second]])
    torch.testing.assert_close(blocks, expected)


def test_scale_by_hand() -> None:
    # channel 0: kept 3 + 4 of 10 -> r = 0.7; channel 1: nothing kept -> r = 1e-6 / (0.5 + 1e-6)
    found = scale(WEIGHT, THRESHOLD)
    assert found.shape == (2, 1)
    assert found[0].item() == pytest.approx(1.01 / ((1.75 + 1e-6) / (2.5 + 1e-6) + 0.01), rel=1e-6)
    assert found[1].item() == pytest.approx(1.01 / (1e-6 / (0.5 + 1e-6) + 0.01), rel=1e-5)


@pytest.mark.parametrize(("sparsity", "factor", "l1"), [(0.9, 3.761, 0.1970), (0.98, 13.15, 0.1117)])
def test_scale_and_l1_of_a_gaussian_layer(sparsity: float, factor: float, l1: float) -> None:
    # expected: 1.01 / (r + 0.01) with r = exp(-T^2 / 2), and the truncated mean; a grid of quantiles, since a random
    # sample would need millions of weights for three digits
    weight = torch.special.ndtri((torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000).expand(4, -1)
    threshold = torch.quantile(weight[0].abs(), sparsity)
    found = scale(weight, threshold)
    assert found.mean().item() == pytest.approx(factor, rel=0.005)
    pruned = found * soft_threshold(weight, threshold)
    assert (pruned.abs().sum() / weight.abs().sum()).item() == pytest.approx(l1, rel=0.005)


def test_least_squares_scale_by_hand() -> None:
    # S(w) = (0, 0, 1, -2): <w, S> = 3 + 8, ||S||^2 = 5
    pruned = soft_threshold(WEIGHT[:1], THRESHOLD)
    assert least_squares_scale(WEIGHT[:1], pruned).item() == pytest.approx(11 / 5)
    assert least_squares_scale(WEIGHT, torch.zeros_like(WEIGHT)).item() == 1


@pytest.mark.parametrize("pattern", ["unstructured", "1x4", "channel"])
def test_threshold_zero_changes_no_bit(pattern: str) -> None:
    weight = torch.randn(8, 4, 3, 3)
    assert torch.equal(effective(weight, state(pattern, 0.0, weight)), weight)
    assert torch.equal(scale(weight, torch.zeros(())), torch.ones(8, 1, 1, 1))


def test_straight_through_hands_the_gradient_on_unchanged() -> None:
    weight = WEIGHT.clone().requires_grad_()
    incoming = torch.arange(8.0).reshape(2, 4) - 3
    effective(weight, state()).backward(incoming)
    assert weight.grad is not None
    assert torch.equal(weight.grad, incoming)


def test_straight_through_keeps_every_bit_of_the_value() -> None:
    weight, value = torch.randn(1000) * 1e3, torch.randn(1000) * 1e-3
    assert torch.equal(straight_through(value, weight), value)


def test_damped_gradient_by_hand() -> None:
    weight = WEIGHT.clone().requires_grad_()
    incoming = torch.arange(8.0).reshape(2, 4) - 3
    damped_straight_through(WEIGHT * 3, weight, WEIGHT > 0, 0.5).backward(incoming)
    assert weight.grad is not None
    assert weight.grad.tolist() == [[-3, -1, -1, 0], [1, 2, 1.5, 4]]


def test_gradients_of_strs_threshold_are_the_mask_and_the_sign() -> None:
    weight, threshold = WEIGHT.clone().requires_grad_(), THRESHOLD.clone().requires_grad_()
    incoming = torch.tensor([[1.0, 2.0, 3.0, 5.0], [7.0, 7.0, 7.0, 7.0]])
    module = SparseWeight(WEIGHT, str_effective, parse_pattern("unstructured"), {"level": torch.tensor(0.0)})
    module.threshold = threshold * 2  # the sigmoid of 0 halves it
    str_effective(weight, module).backward(incoming)
    assert weight.grad is not None
    assert threshold.grad is not None
    assert weight.grad.tolist() == [[0, 0, 3, 5], [0, 0, 0, 0]]
    assert threshold.grad.item() == -3 + 5  # minus the sign of 3, minus that of -4


def test_masked_gradient_of_the_hard_threshold() -> None:
    weight = WEIGHT.clone().requires_grad_()
    hard_threshold(weight, WEIGHT.abs(), THRESHOLD).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[0, 0, 1, 1], [0, 0, 0, 0]]


def test_cubic_schedule() -> None:
    assert [cubic(t, 0.2, 0.6) for t in (0, 0.2, 0.6, 1)] == [0, 0, 1, 1]
    assert cubic(0.4, 0.2, 0.6) == pytest.approx(1 - 0.5**3)
    assert cubic(0.3, 0.2, 0.6) == pytest.approx(1 - 0.75**3)
    assert [cubic(t, 0.5, 0.5) for t in (0.4, 0.5)] == [0, 1]
