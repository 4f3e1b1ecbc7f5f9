"""What the doctor measures on a GPU, with a stopwatch that says what the test wants."""

from __future__ import annotations

import pytest
import torch
from fakes import FakeStopwatch

from compile.cuda.choice import Candidate
from compile.cuda.sites import Site
from compile.cuda.tuning_cache import Timing
from compile.doctor import cuda
from compile.doctor.layer import TWO_OF_FOUR, UNSTRUCTURED, Layer
from compile.doctor.show import expectation_tables
from runtime.errors import UserError


def say(site: Site, candidate: Candidate) -> Timing:
    """Dense takes 20 us, every sparse format 100 times the density."""
    density = float((site.weight != 0).float().mean())
    return Timing(20.0 if candidate.format == "dense" else 100 * density**0.5, 0.1)


def test_sparse_formats_are_compared_with_dense_of_the_same_layer() -> None:
    told: list[float] = []
    stopwatch = FakeStopwatch(say)
    found = cuda.measure(stopwatch, "a GPU", lambda _, done: told.append(done))
    assert told == sorted(told)
    assert {one.us for one in found.dense} == {20.0}
    by_form = {(one.layer, one.form, one.weights): one for one in found.curves}
    assert "dense" not in {one.form for one in found.curves}
    three = Layer(3).title
    assert by_form[three, "semi_structured", TWO_OF_FOUR].break_even == {"dense": None}  # 71 us
    csr = by_form[three, "csr", UNSTRUCTURED]
    assert [point.sparsity for point in csr.points] == [0.95, 0.98, 0.99, 0.995]
    assert 0.95 < csr.break_even["dense"] < 0.98  # 22 and 14 us
    assert stopwatch.prepared
    assert expectation_tables(found)


def test_a_layer_for_a_gpu_keeps_its_zeros_in_half_precision() -> None:
    site = cuda.site_of(Layer(3, 0.5, TWO_OF_FOUR))
    assert int((site.rounded == 0).sum()) == site.weight.numel() // 2
    assert site.problem.output_shape == (cuda.BATCH, 64, 28, 28)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_error_says_so() -> None:
    with pytest.raises(UserError, match="torch finds no NVIDIA GPU"):
        cuda.expect()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_real_gpu_is_measured() -> None:
    found = cuda.expect()
    assert {one.form for one in found.curves} >= {"semi_structured", "csr"}
    assert all(point.us > 0 for one in found.curves for point in one.points)
