"""Where the time goes, which layers stayed dense, and what bounds a speed-up: by hand."""

from __future__ import annotations

import msgspec
import pytest
from bench_builders import build_session, layer, record

from bench.measurement import ArtifactRecord, Bandwidth, Measurements, Peak, Step
from bench.report.analysis import analyse
from bench.report.layer_refusals import layer_refusals, runs_dense
from bench.report.layer_times import OTHER, breakdowns
from bench.report.roofline import limits, place_of, roofline_ms

DENSE, SPARSE = record("d", "dense", 0.0, "native"), record("s", "st3", 0.9, "native")


def session(artifacts: tuple[ArtifactRecord, ...] = (DENSE, SPARSE)) -> Measurements:
    return build_session(artifacts, {"d": [[2.0]] * 6, "s": [[1.0]] * 6}, {"d": 0.9, "s": 0.89}, {"d": [[2.0]] * 6})


def step(artifact: str, name: str, *samples_ms: float, threads: int = 1) -> Step:
    return Step(artifact, 1, threads, name or "pool", name, "kernel", 1000, samples_ms)


def with_steps(*steps: Step) -> Measurements:
    return msgspec.structs.replace(session(), steps=steps)


def test_layers_are_matched_and_steps_without_weights_gathered() -> None:
    timed = with_steps(
        step("d", "fc", 1.5, 1.7, 9.0), step("d", "", 0.1), step("d", "", 0.2), step("d", "late", 0.5),
        step("s", "fc", 0.5), step("s", "fc", 0.25), step("s", "fc", 7.0, threads=2),
    )  # fmt: skip
    (found,) = breakdowns(timed, analyse(timed).rows)
    assert (found.artifact, found.dense_artifact, found.source) == ("s", "d", "steps")
    assert [(entry.layer, entry.dense_ms, entry.sparse_ms) for entry in found.layers] == [
        ("fc", 1.7, 0.75),
        ("late", 0.5, None),
        (OTHER, pytest.approx(0.3), 0.0),
    ]
    assert found.layers[0].density == pytest.approx(0.1)
    assert found.layers[0].format == "dense"


def test_without_a_timed_dense_network_the_sparse_one_stands_alone() -> None:
    timed = with_steps(step("s", "fc", 0.5), step("s", "", 0.1))
    (found,) = breakdowns(timed, analyse(timed).rows)
    assert found.dense_artifact == ""
    assert [(entry.layer, entry.dense_ms, entry.sparse_ms) for entry in found.layers] == [
        ("fc", None, 0.5),
        (OTHER, None, 0.1),
    ]
    untimed = with_steps(step("d", "fc", 1.0))
    assert breakdowns(untimed, analyse(untimed).rows) == ()


def test_another_engine_s_or_recipe_s_dense_network_is_no_twin() -> None:
    for change in ({"engine": "other"}, {"lineage": msgspec.structs.replace(DENSE.lineage, recipe="other")}):
        foreign = msgspec.structs.replace(DENSE, **change)
        timed = msgspec.structs.replace(session((foreign, SPARSE)), steps=(step("d", "fc", 1.0), step("s", "fc", 0.5)))
        (found,) = breakdowns(timed, analyse(timed).rows)
        assert found.dense_artifact == ""


def test_what_a_gpu_s_compiler_timed_is_taken_where_there_are_no_steps() -> None:
    entries = (
        msgspec.structs.replace(layer(0.9), name="a", dense_us=20.0, chosen_us=5.0),
        msgspec.structs.replace(layer(0.9), name="b"),
    )
    timed = session((DENSE, msgspec.structs.replace(SPARSE, layers=entries)))
    (found,) = breakdowns(timed, analyse(timed).rows)
    assert found.source == "compiler"
    assert [(entry.layer, entry.dense_ms, entry.sparse_ms) for entry in found.layers] == [("a", 0.02, 0.005)]


def entry(name: str, format_name: str, reason: str, macs: int, density: float = 0.5) -> object:
    return msgspec.structs.replace(
        layer(0.5, macs), name=name, format=format_name, reason=reason, density=density, macs_dense=macs
    )


def test_refused_layers_are_gathered_by_reason_and_batch_size() -> None:
    layers = (
        entry("a", "dense", "too dense", 100, 0.9), entry("b", "dense_channels", "too dense", 100, 0.95),
        entry("c", "dense 1", "measured", 600), entry("d", "offset_stream", "sparse", 200),
    )  # fmt: skip
    one, two = (
        msgspec.structs.replace(record(f"s{size}", "st3", 0.9, "native", batch_size=size), layers=layers)
        for size in (32, 1)
    )
    found = layer_refusals([one, DENSE, two])
    assert [(r.layers, r.batch_sizes, r.macs_share, r.densities) for r in found] == [
        (("c",), (1, 32), 0.6, (0.5, 0.5)),
        (("a", "b"), (1, 32), 0.2, (0.9, 0.95)),
    ]
    assert layer_refusals([DENSE]) == ()
    assert not runs_dense("csr")


def test_the_roofline_is_the_longer_of_work_and_reading() -> None:
    # 1 M MACs are 2 MFLOP: 20 us at 100 GFLOP/s; 4 MB are 400 us at 10 GB/s
    assert roofline_ms(1_000_000, 4_000, 100.0, 10.0) == (pytest.approx(0.02), "multiply-adds")
    assert roofline_ms(1_000_000, 4_000_000, 100.0, 10.0) == (pytest.approx(0.4), "weights")
    assert roofline_ms(1_000_000, 4_000, None, 10.0) is None
    assert roofline_ms(1_000_000, 4_000, 100.0, None) is None


def test_weights_that_no_cache_holds_come_from_memory() -> None:
    caches = {"L1d": "48K", "L2": "2048K", "L3": "307200K"}
    assert place_of(300 << 20, caches) == "L2"
    assert place_of((300 << 20) + 1, caches) == "DRAM"
    assert place_of(1, {}) == "DRAM"
    assert place_of(1, {"L2": "unknown"}) == "DRAM"


def test_limits_of_a_session_are_of_its_own_peak() -> None:
    bare = session()
    (unknown,) = limits(bare, analyse(bare).rows)
    assert (unknown.flop_ratio, unknown.roofline_speedup, unknown.bound) == (pytest.approx(10.0), None, None)
    able = msgspec.structs.replace(
        bare, peaks=(Peak("registers", 1, (100.0,)),), bandwidths=(Bandwidth("L2", 1, (10.0,)),)
    )
    (known,) = limits(able, analyse(able).rows)
    # dense takes 2 ms; 100 000 MACs at 100 GFLOP/s 2 us, and 192 float32 weights that "dense" keeps less
    assert known.roofline_speedup == pytest.approx(1000.0)
    assert known.bound == "multiply-adds"
