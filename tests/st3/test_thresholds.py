from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from st3.thresholds import quantile, sigma


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, 3.5]), min_size=1, max_size=40),
    st.floats(0, 1, exclude_max=True, width=32),
)
def test_agrees_with_torch_ties_included(values: list[float], fraction: float) -> None:
    tensor = torch.tensor(values, dtype=torch.float64)
    expected = torch.quantile(tensor, fraction)
    assert quantile(tensor, fraction).item() == pytest.approx(expected.item(), abs=1e-12)


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
