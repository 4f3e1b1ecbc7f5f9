"""The search for an order of channels in which no four in a row break a row's two of four."""

from __future__ import annotations

import numpy as np
import pytest

from compile.passes.fours import broken, mend, pack_rows


def rows(count: int, channels: int, density: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, channels)) < density


@pytest.mark.parametrize(("count", "channels", "density"), [(1, 4, 0.9), (63, 8, 0.5), (130, 20, 0.3), (64, 64, 0.1)])
def test_broken_groups_are_counted(count: int, channels: int, density: float) -> None:
    kept = rows(count, channels, density)
    order = np.random.default_rng(1).permutation(channels)
    expected = sum(int(row[order[four : four + 4]].sum() > 2) for row in kept for four in range(0, channels, 4))
    assert broken(pack_rows(kept), order) == expected


def test_numpy_1_counts_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    bits = pack_rows(rows(700, 40, 0.2))
    expected = broken(bits, np.arange(40))
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert broken(bits, np.arange(40)) == expected > 0


@pytest.mark.parametrize(("count", "channels", "density"), [(576, 64, 0.1), (1152, 128, 0.06), (64, 256, 0.2)])
def test_sparse_rows_are_mended(count: int, channels: int, density: float) -> None:
    kept = rows(count, channels, density)
    identity = np.arange(channels)
    assert broken(pack_rows(kept), identity) > 10
    order, left = mend(pack_rows(kept), identity)
    assert left == 0
    assert sorted(order) == list(range(channels))
    assert (kept[:, order].reshape(count, -1, 4).sum(2) <= 2).all()
    again, _ = mend(pack_rows(kept), identity)
    assert (again == order).all()


def test_what_cannot_be_mended_ends() -> None:
    kept = rows(200, 32, 0.9)
    order, left = mend(pack_rows(kept), np.arange(32))
    assert left == broken(pack_rows(kept), order) > 0
    assert sorted(order) == list(range(32))
