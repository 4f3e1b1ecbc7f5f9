"""What the processor can do: plausible figures from the program, and one clear note where it cannot be compiled."""

from __future__ import annotations

import shutil

import independent_peak
import pytest
from networks import HALF, NO_HALF

from bench.environment import usable_cpus
from bench.machine.peaks import bandwidth_of, measure_capacity, peak_of
from bench.measurement import Bandwidth
from runtime.machine import cpu_flags


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_a_nearer_place_is_not_slower() -> None:
    found = measure_capacity([usable_cpus()[:1]], repetitions=5)
    assert found.note == ""
    registers, second = (peak_of(found.peaks, place, 1) for place in ("registers", "L2"))
    near, far = (bandwidth_of(found.bandwidths, place, 1) for place in ("L1", "DRAM"))
    assert registers is not None
    assert second is not None
    assert near is not None
    assert far is not None
    # two floating-point operations need four bytes at least where an operand is read
    assert registers > 1.1 * second > 0.2
    assert near > 1.5 * far > 0.2
    assert peak_of(found.peaks, "registers", 2) is None
    assert {peak.dtype for peak in found.peaks} == {"float32", *(["float16"] if HALF else [])}


@pytest.mark.skipif(not HALF, reason=NO_HALF)
def test_half_precision_makes_more_multiply_adds() -> None:
    for _ in range(3):  # it is twice as many; others may use this machine meanwhile
        found = measure_capacity([usable_cpus()[:1]], repetitions=10)
        half, whole = (peak_of(found.peaks, "registers", 1, dtype) for dtype in ("float16", "float32"))
        if half > 1.5 * whole:
            break
    assert half > 1.2 * whole


def test_without_a_compiler_there_is_a_note_and_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = measure_capacity([usable_cpus()[:1]])
    assert (found.peaks, found.bandwidths) == ((), ())
    assert "'no-such-compiler' cannot be run" in found.note
    assert "\n" not in found.note


def test_a_bandwidth_is_what_is_seldom_passed() -> None:
    samples = (Bandwidth("DRAM", 2, (10.0, 20.0)), Bandwidth("DRAM", 2, (30.0,)), Bandwidth("L1", 2, (99.0,)))
    assert bandwidth_of(samples, "DRAM", 2) == pytest.approx(28.0)
    assert bandwidth_of(samples, "DRAM", 1) is None


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.skipif("fma" not in cpu_flags(), reason="the assembly loop is for x86-64 with FMA")
def test_the_peak_is_that_of_an_independent_loop_and_no_matrix_product_passes_it() -> None:
    # others may use this machine meanwhile; alone, `python tests/bench/independent_peak.py` asks for 10 %
    for _ in range(3):
        found = independent_peak.measure(rounds=1, repetitions=10)
        if abs(found.ours / found.assembly - 1) < 0.1:
            break
    assert found.ours == pytest.approx(found.assembly, rel=0.3)
    assert found.product < 1.2 * found.ours
