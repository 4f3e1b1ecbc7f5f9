"""What every metric found must keep, whatever it measures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from bench_builders import PREPROCESSING, lineage
from numpy.typing import NDArray

from bench.metric import load_metric, metric_names
from runtime.artifact import Artifact, FileEntry, Manifest, Requirements, Target, TensorSpec, Tolerance
from runtime.engine import Engine
from runtime.errors import UserError

PIXELS = (1, 8, 8)


class SumEngine(Engine):
    """Scores class 1 with the mean of the picture and class 0 with zero; NaN in, NaN out."""

    def _compute(self, given: NDArray[np.float32], result: NDArray[np.float32]) -> None:
        mean = given.mean(axis=(1, 2, 3))
        result[:] = np.stack([np.zeros_like(mean), mean], axis=1)


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


@pytest.mark.parametrize("name", metric_names())
def test_every_metric_samples_finite_numbers_in_its_unit(name: str, engine: Engine) -> None:
    metric = load_metric(name)
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
    assert metric_names("round") == ["latency", "latency_call", "latency_cold"]
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
    with pytest.raises(UserError, match="accuracy, latency, latency_call, latency_cold, memory, size"):
        load_metric("beauty")
