"""Statistics against values worked out by hand, and the interval's coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.report.intervals import median_interval, percentile


def test_percentile_by_hand() -> None:
    samples = [4.0, 1.0, 3.0, 2.0]
    assert percentile(samples, 0.5) == 2.5
    assert percentile(samples, 0.9) == pytest.approx(3.7)
    assert percentile([5.0], 0.9) == 5.0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40), st.floats(0, 1))
def test_percentile_agrees_with_numpy(samples: list[float], fraction: float) -> None:
    assert percentile(samples, fraction) == pytest.approx(float(np.quantile(samples, fraction)), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("n", "rank"), [(6, 1), (9, 2), (20, 6), (50, 18)])
def test_interval_ranks_are_those_of_the_binomial_table(n: int, rank: int) -> None:
    # Conover's table: at n = 6, 9, 20 and 50 the ranks 1, 2, 6 and 18 from either end enclose the median at 95 %
    interval = median_interval([float(value) for value in range(1, n + 1)])
    assert (interval.low, interval.high) == (rank, n + 1 - rank)


def test_interval_covers_the_median() -> None:
    generator = np.random.default_rng(3)
    hits = 0
    for _ in range(1000):
        interval = median_interval(list(generator.exponential(size=30)))
        hits += interval.low <= np.log(2) <= interval.high
    assert 935 <= hits <= 990
