from __future__ import annotations

import math

import pytest

from st3.scopes import erk_densities, layer_sparsities, whole_counts

SHAPES = {"stem": (64, 3, 7, 7), "wide": (512, 512, 3, 3), "point": (256, 64, 1, 1), "fc": (1000, 2048)}


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.8, 0.9, 0.99])
def test_erk_totals_are_exact_and_no_density_exceeds_one(sparsity: float) -> None:
    densities = erk_densities(SHAPES, sparsity)
    sizes = {name: math.prod(shape) for name, shape in SHAPES.items()}
    kept = sum(densities[name] * size for name, size in sizes.items())
    assert kept == pytest.approx((1 - sparsity) * sum(sizes.values()), rel=1e-12)
    assert all(0 < density <= 1 for density in densities.values())


def test_erk_by_hand() -> None:
    # sum / prod: 8 / 16 and 16 / 64; a quarter of 80 weights is 20 = f (8 + 16), f = 5/6
    found = erk_densities({"a": (4, 4), "b": (8, 8)}, 0.75)
    assert found == pytest.approx({"a": 5 / 6 / 2, "b": 5 / 6 / 4})
    # 60 kept: f = 2.5 gives a 1.25, so it is dense, and b has the other 44 of 64
    assert erk_densities({"a": (4, 4), "b": (8, 8)}, 0.25) == pytest.approx({"a": 1.0, "b": 44 / 64})


def test_the_first_entry_that_fits_counts() -> None:
    found = layer_sparsities({"wide": 0.9, "*": 0.2, "fc": 0.5}, 0.7, SHAPES)
    assert found == {"stem": 0.2, "wide": 0.9, "point": 0.2, "fc": 0.2}
    assert layer_sparsities({"fc": 0.5}, 0.7, SHAPES)["stem"] == 0.7


def test_whole_counts_by_hand() -> None:
    assert whole_counts({"a": 1.5, "b": 2.7, "c": 0.8}, 5) == {"a": 1, "b": 3, "c": 1}
