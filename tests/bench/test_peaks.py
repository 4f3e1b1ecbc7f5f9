"""What the processor can do: plausible figures from the program, and one clear note where it cannot be compiled."""

from __future__ import annotations

import shutil

import pytest

from bench.environment import usable_cpus
from bench.measurement import Bandwidth
from bench.peaks import bandwidth_of, measure_capacity, peak_of


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
