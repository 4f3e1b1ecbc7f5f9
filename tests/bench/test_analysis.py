"""Rows, speed-ups, the Pareto front and the answer in words, on sessions small enough to work out by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from bench_builders import build_session, record

from bench.environment import Gpu
from bench.measurement import Missing, Refusal, Surroundings
from bench.naming import checkpoint_name
from bench.report.analysis import Row, analyse
from bench.report.pareto import front
from bench.report.summary import groups

if TYPE_CHECKING:
    from bench.measurement import Measurements

ARTIFACTS = [
    record("d-ort", "dense", 0.0, "onnxruntime"),
    record("d-nat", "dense", 0.0, "native"),
    record("s-90", "st3", 0.9, "native"),
    record("s-98", "st3", 0.98, "native"),
]
# the second round is twice as slow for everybody
ROUNDS_MS = {
    "d-ort": [[3.0, 3.0], [6.0, 6.0]],
    "d-nat": [[4.0, 4.0], [8.0, 8.0]],
    "s-90": [[2.0, 2.0], [4.0, 4.0]],
    "s-98": [[1.0, 1.0], [2.0, 2.0]],
}
ACCURACY = {"d-ort": 0.9, "d-nat": 0.9, "s-90": 0.895, "s-98": 0.85}
CONTROL = {"d-ort": [[3.03, 3.03], [6.0, 6.0]]}


@pytest.fixture
def session() -> Measurements:
    return build_session(ARTIFACTS, ROUNDS_MS, ACCURACY, CONTROL)


def by_artifact(session: Measurements) -> dict[str, Row]:
    return {row.artifact: row for row in analyse(session).rows}


def test_speedups_by_hand(session: Measurements) -> None:
    rows = by_artifact(session)
    assert {name: row.speedup_vs_dense for name, row in rows.items()} == pytest.approx(
        {"d-ort": 1.0, "d-nat": 0.75, "s-90": 1.5, "s-98": 3.0}
    )
    assert [name for name, row in rows.items() if row.base] == ["d-ort"]


def test_columns_by_hand(session: Measurements) -> None:
    row = by_artifact(session)["s-90"]
    assert (row.method, row.pattern, row.sparsity, row.backend) == ("st3", "unstructured", 0.9, "native")
    assert (row.batch_size, row.threads, row.size_bytes, row.peak_memory_bytes) == (1, 1, 1_200_000, 50_000_000)
    assert (row.macs_dense, row.macs_nonzero, row.accuracy) == (1_000_000, 100_000, 0.895)
    # pooled samples 2 2 4 4
    assert row.latency_ms_p50 == 3.0
    assert row.latency_ms_p90 == 4.0
    # two operations a MAC in 3 ms
    assert row.gflops_useful == pytest.approx(2 * 100_000 / 3e-3 / 1e9)
    assert row.gflops_dense_equivalent == pytest.approx(2 * 1_000_000 / 3e-3 / 1e9)


def test_latency_per_picture_and_gflops_count_the_batch() -> None:
    artifacts = [record("d", "dense", 0.0, "native", batch_size=32)]
    row = by_artifact(build_session(artifacts, {"d": [[8.0]]}, {"d": 0.9}))["d"]
    assert row.latency_ms_per_picture == 0.25
    assert row.gflops_useful == pytest.approx(2 * 1_000_000 * 32 / 8e-3 / 1e9)


def test_resolution_is_the_reach_of_the_control_pair(session: Measurements) -> None:
    # ratios 3/3.03 and 6/6: the interval of two rounds is their range
    row = by_artifact(session)["s-90"]
    assert row.resolution == pytest.approx(1 - 3 / 3.03)
    assert row.speedup_resolved is True


def test_a_gain_within_the_resolution_is_none() -> None:
    rounds = {"d-ort": [[3.0], [3.0]], "s-90": [[2.95], [2.95]]}
    session = build_session([ARTIFACTS[0], ARTIFACTS[2]], rounds, ACCURACY, {"d-ort": [[3.3], [2.9]]})
    analysis = analyse(session)
    row = next(row for row in analysis.rows if row.artifact == "s-90")
    assert row.speedup_vs_dense == pytest.approx(3 / 2.95)
    assert row.speedup_resolved is False
    (group,) = groups(analysis.rows)
    assert all(choice.best is None for choice in group.picks)
    assert "no sparse artifact is measurably faster" in group.picks[0].sentence
    assert any("A/A pair differs by up to 9.1%" in warning for warning in analysis.warnings)


def test_pareto_front_of_the_rows(session: Measurements) -> None:
    rows = by_artifact(session)
    assert {name for name, row in rows.items() if row.pareto} == {"s-98", "s-90", "d-ort"}


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([], []),
        ([(1, 0.5)], [0]),
        ([(2, 0.9), (1, 0.8), (3, 0.85)], [1, 0]),
        ([(1, 0.9), (2, 0.9)], [0]),
        ([(1, 0.8), (1, 0.9)], [1]),
        ([(1, 0.9), (1, 0.9)], [0, 1]),
    ],
)
def test_front_by_hand(points: list[tuple[float, float]], expected: list[int]) -> None:
    assert front(points) == expected


def test_words_name_the_best_within_each_budget(session: Measurements) -> None:
    (group,) = groups(analyse(session).rows)
    assert [choice.best.artifact if choice.best else None for choice in group.picks] == ["s-90"] * 3
    assert group.picks[0].sentence == (
        "Within 0.5 points of dense (0.9000): st3 unstructured at sparsity 0.9 with native (accuracy 0.8950) is "
        "1.50\u00d7 as fast as the fastest dense artifact (onnxruntime)."
    )
    assert group.headline == "1.50\u00d7 as fast as the fastest dense network, for 0.5 points of accuracy."


def test_of_equally_fast_artifacts_the_more_accurate_is_named() -> None:
    artifacts = [*ARTIFACTS, record("gmp", "gmp", 0.9, "native")]
    rounds = ROUNDS_MS | {"gmp": [[1.999, 1.999], [3.998, 3.998]]}
    (group,) = groups(analyse(build_session(artifacts, rounds, ACCURACY | {"gmp": 0.892}, CONTROL)).rows)
    assert [choice.best.artifact for choice in group.picks if choice.best] == ["s-90"] * 3


def test_recipes_are_not_compared_with_each_other(session: Measurements) -> None:
    other = msgspec.structs.replace(ARTIFACTS[0].lineage, recipe="other")
    artifacts = [msgspec.structs.replace(ARTIFACTS[0], lineage=other), *ARTIFACTS[1:]]
    rows = by_artifact(msgspec.structs.replace(session, artifacts=tuple(artifacts)))
    assert rows["s-90"].speedup_vs_dense == pytest.approx(2)  # against d-nat, although d-ort is faster
    assert rows["d-ort"].speedup_vs_dense == 1.0


def test_a_file_s_speedup_is_against_the_engine_that_computes_its_zeros() -> None:
    runtime, native = record("o-ort", "onnx", 0.9, "onnxruntime"), record("o-nat", "onnx", 0.9, "native")
    skipped = msgspec.structs.replace(native.layers[0], format="offset_stream")
    native = msgspec.structs.replace(native, layers=(skipped,))
    analysis = analyse(build_session([native, runtime], {"o-nat": [[1.0]], "o-ort": [[3.0]]}, {}))
    rows = {row.artifact: row for row in analysis.rows}
    assert rows["o-ort"].base
    assert rows["o-nat"].speedup_vs_dense == pytest.approx(3)
    assert rows["o-nat"].checkpoint == native.lineage.recipe


def test_without_dense_there_is_no_speedup() -> None:
    analysis = analyse(build_session(ARTIFACTS[2:], {"s-90": [[1.0]], "s-98": [[1.0]]}, ACCURACY_SPARSE))
    assert {row.speedup_vs_dense for row in analysis.rows} == {None}
    assert any("nothing to give a speed-up against" in warning for warning in analysis.warnings)
    assert any("No A/A pair" in warning for warning in analysis.warnings)


ACCURACY_SPARSE = {"s-90": 0.895, "s-98": 0.85}


def test_a_failed_worker_is_a_failure_and_no_row(session: Measurements) -> None:
    failed = [msgspec.structs.replace(m, failure="died") if m.artifact == "s-98" else m for m in session.measurements]
    analysis = analyse(msgspec.structs.replace(session, measurements=tuple(failed), refusals=(Refusal("x", "broken"),)))
    assert {row.artifact for row in analysis.rows} == {"d-ort", "d-nat", "s-90"}
    assert {(failure.name, failure.reason) for failure in analysis.failures} >= {
        ("x", "broken"),
        ("st3-unstructured-0.98", "died"),
    }


def test_what_weakens_a_session_is_said(session: Measurements) -> None:
    quiet = analyse(session).warnings
    assert len(quiet) == 1
    assert "swung by" in quiet[0]  # the control's second round is twice as slow
    busy = build_session(ARTIFACTS, ROUNDS_MS, ACCURACY, CONTROL, load=1.7)
    restless = [msgspec.structs.replace(m, stable=m.artifact != "s-90") for m in busy.measurements]
    cut = msgspec.structs.replace(busy, end=None, measurements=tuple(restless))
    text = " ".join(analyse(cut).warnings)
    assert "load average 1.70 on 2 CPUs" in text
    assert "was interrupted" in text
    assert "warm-up of st3-unstructured-0.9 with native" in text


def test_what_disturbed_a_launch_and_what_is_missing_is_said_once(session: Measurements) -> None:
    def gpu(mhz: float) -> Gpu:
        return Gpu("a GPU", "1", 1.0, mhz, 1980.0, 1.0, 100.0, 700.0, 40.0)

    around = (
        Surroundings(1, 1, 0, 9.0, (1.0,), 0.1, 0.0, (gpu(1980), gpu(1950))),
        Surroundings(1, 1, 1, 9.0, (1.0,), 1.3, 0.4, (gpu(1200),)),
    )
    missing = (Missing("energy", "no counter", "d-ort"), Missing("energy", "no counter", "s-90"))
    said = analyse(msgspec.structs.replace(session, surroundings=around, missing=missing)).warnings
    assert "At batch 1, threads 1 other processes kept up to 1.3 CPUs while it was measured." in said
    assert "At batch 1, threads 1 the hypervisor took up to 0.4 CPUs while it was measured." in said
    assert any("the GPU's clock went from 1200 to 1980 MHz" in text for text in said)
    assert [text for text in said if "Energy" in text] == ["Energy was not measured: no counter."]


def test_checkpoint_names_are_those_of_the_folders() -> None:
    assert checkpoint_name(record("a", "dense", 0.0, "native")) == "dense"
    assert checkpoint_name(record("a", "st3", 0.5, "native", pattern="2:4")) == "st3-2to4-0.5"
    assert checkpoint_name(record("a", "gmp", 0.95, "native")) == "gmp-unstructured-0.95"
