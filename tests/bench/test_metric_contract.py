"""What every metric found must keep, whatever it measures."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from bench_builders import PREPROCESSING, lineage
from numpy.typing import NDArray

from bench.measure import joules
from bench.metric import AnswerMetric, Answers, load_metric, metric_names
from bench.metrics.calibration_error import expected_calibration_error
from runtime.artifact import Artifact, FileEntry, Manifest, Requirements, Target, TensorSpec, Tolerance
from runtime.engine import Engine
from runtime.errors import UserError

PIXELS = (1, 8, 8)


class SumEngine(Engine):
    """Scores class 1 with the mean of the picture and class 0 with zero; NaN in, NaN out."""

    def _compute(self, given: NDArray[np.float32], results: Sequence[NDArray[np.float32]]) -> None:
        mean = given.mean(axis=(1, 2, 3))
        results[0][:] = np.stack([np.zeros_like(mean), mean], axis=1)


class DeviceEngine(SumEngine):
    """Has a device that takes 2 ms, and 3 ms where its caches are empty."""

    def device_ms(self, inputs: Mapping[str, NDArray[np.float32]], cold: bool = False) -> float | None:
        self.checked_input(inputs)
        return 3.0 if cold else 2.0


@pytest.fixture
def engine() -> Engine:
    manifest = Manifest(
        schema_version=1,
        name="sum",
        backend="sum",
        engine="sum",
        target=Target(device="cpu", architecture="portable", dtype="float32", batch_size=4, threads=1),
        lineage=lineage("dense", 0.0),
        input=TensorSpec(name="x", shape=(4, *PIXELS), dtype="float32"),
        output=TensorSpec(name="y", shape=(4, 2), dtype="float32"),
        classes=("down", "up"),
        preprocessing=PREPROCESSING,
        layers=(),
        tolerance=Tolerance(relative=1e-4),
        requirements=Requirements(),
        files={"payload/a": FileEntry(sha256="", size_bytes=11), "golden/inputs.npy": FileEntry("", 99)},
    )
    return SumEngine(Artifact(folder=Path(), manifest=manifest, digest="0"), threads=1)


def batches(values: list[float], labels: list[int]) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Pictures of one value each, in batches of four; the last batch is short."""
    images = np.broadcast_to(np.asarray(values, np.float32)[:, None, None, None], (len(values), *PIXELS)).copy()
    starts = range(0, len(values), 4)
    return [(images[i : i + 4], np.asarray(labels[i : i + 4], np.int64)) for i in starts]


@pytest.fixture
def powercap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two packages, the second about to begin at 0 again, and a zone of one of them, which is counted in it."""
    for zone, energy_uj in (("intel-rapl:0", 5_000_000), ("intel-rapl:1", 99_000_000), ("intel-rapl:0:0", 1)):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "energy_uj").write_text(f"{energy_uj}\n")
        (tmp_path / zone / "max_energy_range_uj").write_text("100000000\n")
    monkeypatch.setattr(joules, "POWERCAP", tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", metric_names())
def test_every_metric_samples_finite_numbers_in_its_unit(name: str, engine: Engine, powercap: Path) -> None:
    metric = load_metric(name)
    assert metric.unavailable(engine) is None
    assert metric.unit
    assert metric.better in ("lower", "higher")
    assert metric.scope in ("round", "condition", "artifact")
    if metric.device_only:
        engine = DeviceEngine(engine.artifact, 1)
    samples = metric.sample(engine, batches([1.0] * 8, [1] * 8))
    assert samples
    assert all(type(value) is float and np.isfinite(value) and value >= 0 for value in samples)


def test_the_metrics_of_the_scopes_are_all_metrics() -> None:
    scopes = [metric_names(scope) for scope in ("round", "condition", "artifact")]
    assert sorted(name for scope in scopes for name in scope) == metric_names()
    assert metric_names("round") == ["latency", "latency_call", "latency_cold", "throughput"]
    assert [name for name in metric_names() if load_metric(name).device_only] == ["latency_call", "latency_cold"]


def test_a_device_has_a_clock_of_its_own(engine: Engine) -> None:
    device = DeviceEngine(engine.artifact, 1)
    given = batches([1.0] * 8, [1] * 8)
    assert load_metric("latency").sample(device, given) == [2.0, 2.0]
    assert load_metric("latency_cold").sample(device, given) == [3.0, 3.0]
    assert all(0 < ms < 1000 and ms != 2.0 for ms in load_metric("latency_call").sample(device, given))


def test_accuracy_by_hand_with_a_short_last_batch(engine: Engine) -> None:
    # right: up up down | wrong: down taken for up, up taken for down | right: the padded batch's only picture
    given = batches([1.0, 2.0, -1.0, 3.0, -2.0, 5.0], [1, 1, 0, 0, 1, 1])
    assert load_metric("accuracy").sample(engine, given) == [4 / 6]


def test_a_network_that_answers_nan_is_wrong(engine: Engine) -> None:
    # argmax takes a NaN for the highest, so these two would count as right
    assert load_metric("accuracy").sample(engine, batches([float("nan"), float("nan"), 1.0], [1, 1, 1])) == [1 / 3]


def test_size_counts_the_payload_alone(engine: Engine) -> None:
    assert load_metric("size").sample(engine, []) == [11.0]


def test_an_unknown_metric_lists_the_valid_ones() -> None:
    with pytest.raises(UserError, match=r"accuracy, .*latency, latency_call, .*size, throughput"):
        load_metric("beauty")


def scored(name: str, scores: list[list[float]], labels: list[int]) -> float:
    metric = load_metric(name)
    assert isinstance(metric, AnswerMetric)
    return metric.score(Answers(np.asarray(scores, np.float32), np.asarray(labels)))


def test_top_five_by_hand() -> None:
    falling = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    # the fifth highest counts, the sixth does not; a constant answer knows nothing, and neither does a NaN
    assert scored("accuracy_top5", [falling, falling], [4, 5]) == 0.5
    assert scored("accuracy_top5", [[0.0] * 6, [float("nan"), *falling[1:]]], [0, 1]) == 0


def test_agreement_is_with_the_dense_network_and_nan_agrees_with_nobody() -> None:
    up, down, nan = [0.0, 1.0], [1.0, 0.0], [float("nan"), 1.0]
    assert scored("agreement", [up, up, down, down], [1, 0, 0, 0]) == 0.75
    assert scored("agreement", [nan, up], [-1, 1]) == 0.5


def test_calibration_error_by_hand() -> None:
    # 0.7 is right once in two, 0.95 always: half of the pictures are off by 0.2, half by 0.05
    error = expected_calibration_error(np.array([0.7, 0.7, 0.95, 0.95]), np.array([True, False, True, True]))
    assert error == pytest.approx(0.5 * 0.2 + 0.5 * 0.05)
    # bins are closed above: 1/15 shares one with 0.04, so that their errors cancel, and not with 0.1
    edges = np.array([1.0 / 15, 0.04])
    assert expected_calibration_error(edges, np.array([False, True])) == pytest.approx((1 - 1 / 15 - 0.04) / 2)
    edges = np.array([1.0 / 15, 0.1])
    assert expected_calibration_error(edges, np.array([False, True])) == pytest.approx((1 / 15 + 0.9) / 2)
    # softmax of (log 3, 0) is 3/4
    logits = [[float(np.log(3)), 0.0]] * 4
    assert scored("calibration_error", logits, [0, 0, 0, 1]) == pytest.approx(0, abs=1e-6)
    assert scored("calibration_error", logits, [1, 1, 1, 1]) == pytest.approx(0.75)
    assert scored("calibration_error", [[float("nan"), 1.0]], [1]) == 1


def test_energy_sums_the_packages_and_knows_that_a_counter_begins_anew(powercap: Path) -> None:
    meter = joules.meter("cpu")
    begin = meter.read()
    (powercap / "intel-rapl:0/energy_uj").write_text("7000000")
    (powercap / "intel-rapl:1/energy_uj").write_text("3000000")
    assert meter.since(begin) == pytest.approx(2 + 4)


def test_energy_that_cannot_be_read_has_one_reason(tmp_path: Path, engine: Engine, powercap: Path) -> None:
    joules.POWERCAP = tmp_path / "nothing"  # the fixture puts it back
    reason = load_metric("energy").unavailable(engine)
    assert reason is not None
    assert "no RAPL counter under" in reason
    assert "\n" not in reason
    gpu = joules.unreadable("cuda")
    assert gpu is None or "nvidia-ml-py" in gpu or "no counter" in gpu


def test_throughput_counts_pictures_over_all_time(engine: Engine) -> None:
    class Slow(SumEngine):
        def run(self, inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
            time.sleep(0.02)
            return super().run(inputs)

    (rate,) = load_metric("throughput").sample(Slow(engine.artifact, 1), batches([1.0] * 8, [1] * 8))
    assert 0 < rate < 8 / 0.04
