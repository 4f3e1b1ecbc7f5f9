"""Figures of a row that come from several records: usable MACs, shares of the peak and of the bandwidth, the server."""

from __future__ import annotations

import msgspec
import pytest
from bench_builders import build_session, layer, record

from bench.measurement import Bandwidth, Harness, Measurement, Measurements, Peak, Served
from bench.report.analysis import Row, analyse
from bench.report.figures import weight_bytes
from bench.report.terminal import capacity_lines, harness_lines
from bench.usable import format_at, layer_macs_usable, macs_usable

MIXED = "batch 1: offset_stream, batch 32: dense_channels"


def layers(*formats: str) -> tuple[object, ...]:
    return tuple(msgspec.structs.replace(layer(0.9), format=form) for form in formats)


def test_usable_macs_are_those_that_the_format_executes() -> None:
    dense, nonzero = 1_000_000, 100_000
    expected = {"dense": dense, "dense_channels": dense, "offset_stream": nonzero, "pair_stream": nonzero}
    for form, macs in (expected | {"block_stream": nonzero, "a new format": None}).items():
        (one,) = layers(form)
        assert layer_macs_usable(one, "native", 1) == macs
        # another engine computes every zero, whatever its layers are called
        assert layer_macs_usable(one, "onnxruntime", 1) == dense
    # a GPU's artifact knows it itself
    assert layer_macs_usable(msgspec.structs.replace(layers("csr")[0], macs_usable=7), "inductor", 1) == 7
    assert macs_usable(layers("dense", "offset_stream"), "native", 1) == dense + nonzero
    assert macs_usable(layers("dense", "a new format"), "native", 1) is None


def test_a_layer_may_have_a_format_per_batch_size() -> None:
    assert format_at(MIXED, 1) == "offset_stream"
    assert format_at(MIXED, 32) == "dense_channels"
    assert format_at("dense", 32) == "dense"
    assert macs_usable(layers(MIXED), "native", 1) == 100_000
    assert macs_usable(layers(MIXED), "native", 32) == 1_000_000


def session() -> Measurements:
    artifacts = [record("d", "dense", 0.0, "native"), record("s", "st3", 0.9, "native")]
    sparse = msgspec.structs.replace(artifacts[1], layers=layers("offset_stream"))
    made = build_session([artifacts[0], sparse], {"d": [[2.0]], "s": [[1.0]]}, {"d": 0.9, "s": 0.8}, {"d": [[2.0]]})

    def once(metric: str, *values: float) -> Measurement:
        rounds = tuple((value,) for value in values)
        return Measurement("s", metric, "1", 1, 1, rounds, launches=tuple(range(len(values))))

    figures = [once("memory", 5e7, 7e7, 6e7), once("load_time", 30.0, 90.0, 40.0), once("throughput", 900.0, 1000.0)]
    figures += [
        once("agreement", 0.75),
        once("accuracy_top5", 0.99),
        once("calibration_error", 0.02),
        once("energy", 0.5),
    ]
    kept = [m for m in made.measurements if not (m.artifact == "s" and m.metric == "memory")]
    return msgspec.structs.replace(
        made,
        measurements=(*kept, *figures),
        peaks=(Peak("registers", 1, (4.0,)), Peak("registers", 2, (9.0,))),
        bandwidths=(Bandwidth("DRAM", 1, (2.0,)),),
        served=(Served("s", 1, 1, 90.0, 5.0, (1.0, 3.0), 88.0, 0), Served("d", 1, 1, 90.0, 5.0, (9.0,), 88.0, 0)),
        harness=(Harness((0.25, 0.35, 0.3), (1.0, 0.9, 0.8)),),
    )


def rows() -> dict[str, Row]:
    return {row.artifact: row for row in analyse(session()).rows}


def test_a_row_has_one_figure_of_each_metric() -> None:
    row = rows()["s"]
    assert (row.peak_memory_bytes, row.load_ms, row.pictures_per_s) == (70_000_000, 40.0, 950.0)
    assert (row.agreement, row.accuracy_top5, row.calibration_error) == (0.75, 0.99, 0.02)
    assert row.energy_j_per_picture == 0.5
    assert (row.server_rate_per_s, row.server_p99_ms) == (90.0, pytest.approx(2.98))
    dense = rows()["d"]
    assert (dense.server_rate_per_s, dense.server_p99_ms) == (0.0, None)  # its bound does not hold
    assert (dense.agreement, dense.load_ms) == (None, None)


def test_shares_are_of_what_the_same_session_measured() -> None:
    found = rows()
    # 2 * 1e5 executed operations in 1 ms are 0.2 GFLOP/s of 4; all of the dense one's in 2 ms are 1 of 4
    assert found["s"].gflops_usable == pytest.approx(0.2)
    assert found["s"].share_of_peak == pytest.approx(0.05)
    assert found["d"].share_of_peak == pytest.approx(0.25)
    # 192 weights in float32, of which a tenth is kept
    assert weight_bytes(session().artifacts[0], 1) == 4 * 192
    assert found["s"].share_of_bandwidth == pytest.approx(4 * 19 / 1e-3 / 1e9 / 2.0)
    without = msgspec.structs.replace(session(), peaks=(), bandwidths=())
    assert {(row.share_of_peak, row.share_of_bandwidth) for row in analyse(without).rows} == {(None, None)}
    # a GPU does not work at the CPU's peak
    gpu = tuple(
        msgspec.structs.replace(one, target=msgspec.structs.replace(one.target, device="cuda"))
        for one in session().artifacts
    )
    on_gpu = analyse(msgspec.structs.replace(session(), artifacts=gpu)).rows
    assert [row.share_of_peak for row in on_gpu] == [None, None]


def test_the_harness_and_the_processor_are_said_in_words() -> None:
    assert harness_lines(session()) == [
        "the bench itself: 0.30 us of a call's latency, 0.90 us a call in all (an engine that computes nothing)"
    ]
    assert capacity_lines(session()) == [
        "the processor, 1 thread: 4 GFLOP/s, 2.0 GB/s read from memory",
        "the processor, 2 threads: 9 GFLOP/s",
    ]
