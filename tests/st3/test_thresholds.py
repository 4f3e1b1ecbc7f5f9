from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from st3.thresholds import Segments, _select_by_digits, _select_on_cpu, quantiles, sigma, top_mask


def quantile(values: torch.Tensor, fraction: float) -> torch.Tensor:
    """One quantile of all values."""
    segments = Segments((values.numel(),), values.device)
    return quantiles(values.float(), torch.tensor([fraction], dtype=torch.float64), segments)[0]


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, 3.5]), min_size=1, max_size=40),
    st.floats(0, 1, exclude_max=True, width=32),
)
def test_agrees_with_torch_ties_included(values: list[float], fraction: float) -> None:
    tensor = torch.tensor(values, dtype=torch.float64)
    expected = torch.quantile(tensor, fraction)
    assert quantile(tensor, fraction).item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("count", [10, 999, 4096, 100_001])
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9, 0.98, 0.999])
def test_share_at_or_below_is_the_fraction_within_one_weight(count: int, fraction: float) -> None:
    values = torch.rand(count, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    share = (values <= quantile(values, fraction)).double().mean().item()
    assert abs(share - fraction) <= 1 / count


def test_takes_more_values_than_older_torch_quantile() -> None:
    values = torch.arange(2**24 + 2, dtype=torch.float32)
    assert quantile(values, 0.5).item() == pytest.approx(2**23, abs=2)


def test_sigma_is_a_width_formula() -> None:
    assert sigma((64, 32, 3, 3)) == 1 / math.sqrt(64 + 32 + 3 + 3)
    assert sigma((10, 96)) == 1 / math.sqrt(106)


def test_each_segment_has_its_own_quantile() -> None:
    lengths = (3, 70_000, 1, 500)
    values = torch.rand(sum(lengths), generator=torch.Generator().manual_seed(8))
    fractions = torch.tensor([0.5, 0.9, 0.3, 0.0], dtype=torch.float64)
    found = quantiles(values, fractions, Segments(lengths, values.device))
    parts = zip(values.double().split(lengths), fractions, strict=True)
    expected = torch.stack([torch.quantile(part, fraction) for part, fraction in parts])
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-7)


def test_midway_lies_between_two_groups_of_equals() -> None:
    values = torch.tensor([1.0, 1.0, 1.0, 2.0, 2.0, 4.0])
    segments = Segments((6,), values.device)
    for fraction, expected in ((0.0, 1.5), (0.3, 1.5), (0.5, 1.5), (0.6, 3.0), (1.0, 4.0)):
        wanted = torch.tensor([fraction], dtype=torch.float64)
        assert quantiles(values, wanted, segments, midway=True).item() == expected


def test_infinite_and_nan_values_are_the_largest() -> None:
    values = torch.tensor([1.0, math.inf, 2.0, math.nan, 0.0])
    assert [quantile(values, f).item() for f in (0.0, 0.25, 0.5, 0.75)] == [0, 1, 2, math.inf]
    assert math.isnan(quantile(values, 1.0).item())


def test_tiny_and_equal_values() -> None:
    values = torch.tensor([1e-42, 2e-42, 3e-42])
    assert quantile(values, 0.5).item() == values[1].item()
    assert quantile(torch.full((9,), 0.3), 0.77).item() == torch.tensor(0.3).item()


@settings(max_examples=100)
@given(st.lists(st.sampled_from([0.0, 1e-42, 0.25, 2.0, math.inf, math.nan]), min_size=1, max_size=12), st.floats(0, 1))
def test_digits_and_partition_select_the_same(values: list[float], fraction: float) -> None:
    for keys in (torch.tensor(values).view(torch.int32), torch.rand(3000).view(torch.int32)):
        rank = torch.tensor([int(fraction * (len(keys) - 1))], dtype=torch.int32)
        digits, partition = _select_by_digits(keys, rank), _select_on_cpu(keys, rank)
        assert [one.tolist() for one in digits] == [one.tolist() for one in partition]
        assert [one.dtype for one in digits] == [one.dtype for one in partition]


def test_top_mask_keeps_the_first_of_equal_scores() -> None:
    assert top_mask(torch.tensor([2.0, 1.0, 2.0, 2.0]), 2).tolist() == [True, False, True, False]
    assert not top_mask(torch.ones(3), 0).any()
