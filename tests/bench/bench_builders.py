"""Builders of small real artifacts and of synthetic sessions, for the tests of the bench."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from bench.environment import Environment, Machine
from bench.measurement import ArtifactRecord, End, Measurement, Measurements, Session, Settings
from runtime.artifact import (
    LayerEntry,
    Lineage,
    Manifest,
    Requirements,
    Target,
    TensorSpec,
    Tolerance,
    list_files,
    write_manifest,
)
from runtime.data import Preprocessing, write_evaluation_set

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

CLASSES = ("a", "b", "c")
PICTURES = 70  # not a multiple of 32: the last batch is short
SHAPE = (1, 8, 8)
PREPROCESSING = Preprocessing(shape=SHAPE, mean=(0.5,), std=(0.25,))


def lineage(method: str, sparsity: float, pattern: str = "unstructured") -> Lineage:
    return Lineage(
        recipe="tiny",
        method=method,
        pattern="dense" if method == "dense" else pattern,
        target_sparsity=sparsity,
        sparsity=sparsity,
        accuracy=0.9,
        seed=0,
        commit="unknown",
        checkpoint_sha256="0" * 64,
        versions={},
    )


def layer(sparsity: float, macs: int = 1_000_000) -> LayerEntry:
    return LayerEntry(
        name="fc",
        op="linear",
        weight_shape=(3, 64),
        pattern="unstructured",
        nonzeros=round(192 * (1 - sparsity)),
        density=1 - sparsity,
        macs_dense=macs,
        macs_nonzero=round(macs * (1 - sparsity)),
        format="dense",
        reason="the test says so",
    )


def weights(hidden: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    generator = np.random.default_rng(hidden)
    shapes = ((64, hidden), (hidden, len(CLASSES)))
    return (
        generator.standard_normal(shapes[0]).astype(np.float32),
        generator.standard_normal(shapes[1]).astype(np.float32),
    )


def onnx_model(batch_size: int, hidden: int) -> bytes:
    """Flatten and two matrix products; ``hidden`` decides how long it takes."""
    first, second = weights(hidden)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("MatMul", ["flat", "first"], ["between"]),
            helper.make_node("MatMul", ["between", "second"], ["y"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch_size, *SHAPE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch_size, len(CLASSES)])],
        [numpy_helper.from_array(first, "first"), numpy_helper.from_array(second, "second")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def make_artifact(
    folder: Path, method: str, sparsity: float, batch_size: int = 1, hidden: int = 8, broken: str = ""
) -> Path:
    """An artifact for the onnxruntime engine; ``broken`` replaces its model by that text."""
    for name in ("payload", "golden"):
        (folder / name).mkdir(parents=True)
    model = broken.encode() if broken else onnx_model(batch_size, hidden)
    (folder / "payload/model.onnx").write_bytes(model)
    np.save(folder / "golden/inputs.npy", np.zeros((batch_size, *SHAPE), np.float32))
    np.save(folder / "golden/outputs.npy", np.zeros((batch_size, len(CLASSES)), np.float32))
    manifest = Manifest(
        schema_version=1,
        name=f"{method}-{sparsity:g}",
        backend="onnxruntime",
        engine="onnxruntime",
        target=Target(device="cpu", architecture="portable", dtype="float32", batch_size=batch_size, threads=1),
        lineage=lineage(method, sparsity),
        input=TensorSpec(name="x", shape=(batch_size, *SHAPE), dtype="float32"),
        output=TensorSpec(name="y", shape=(batch_size, len(CLASSES)), dtype="float32"),
        classes=CLASSES,
        preprocessing=PREPROCESSING,
        layers=(layer(sparsity),),
        tolerance=Tolerance(relative=1e-4),
        requirements=Requirements(),
        files=list_files(folder),
    )
    write_manifest(folder, manifest)
    return folder


def make_three(folder: Path, batch_size: int = 1) -> Path:
    """A dense artifact and two sparse ones, which do ten and five hundred times less."""
    make_artifact(folder / "dense" / f"onnxruntime-b{batch_size}", "dense", 0.0, batch_size, hidden=4000)
    make_artifact(folder / "st3-0.9" / f"onnxruntime-b{batch_size}", "st3", 0.9, batch_size, hidden=400)
    make_artifact(folder / "st3-0.95" / f"onnxruntime-b{batch_size}", "st3", 0.95, batch_size, hidden=8)
    return folder


def invoke(command: Any, *arguments: object) -> str:
    """What a command prints that ends well."""
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def make_evaluation(folder: Path) -> Path:
    """Random pictures whose labels are the answers of the network with 8 hidden units, but for the first seven."""
    images = np.random.default_rng(1).integers(0, 256, (PICTURES, *SHAPE), dtype=np.uint8)
    first, second = weights(8)
    labels = (PREPROCESSING.apply(images).reshape(PICTURES, -1) @ first @ second).argmax(axis=1)
    labels[:7] = (labels[:7] + 1) % len(CLASSES)
    write_evaluation_set(folder, "random", images, labels, PREPROCESSING, CLASSES)
    return folder


def environment(load: float = 0.1) -> Environment:
    machine = Machine(
        cpu_model="Example CPU <b>9</b>",
        architecture="x86_64",
        logical_cpus=4,
        usable_cpus=2,
        threads_per_core=1,
        caches={"L1d": "48K", "L2": "1024K"},
        memory_bytes=16_000_000_000,
        governor="performance",
        virtualised=True,
        cpu_flags=("avx2", "avx512f"),
    )
    return Environment(
        started="2026-11-23T12:00:00+00:00",
        machine=machine,
        operating_system="Example Linux 1",
        python="CPython 3.11.7",
        packages={"numpy": "2.0.0"},
        commit="unknown",
        load_average=(load, load, load),
    )


def record(digest: str, method: str, sparsity: float, backend: str, **more: object) -> ArtifactRecord:
    pattern, batch_size = str(more.get("pattern", "unstructured")), int(str(more.get("batch_size", 1)))
    entry = layer(sparsity)
    return ArtifactRecord(
        digest=digest,
        name=digest,
        backend=backend,
        engine=backend,
        target=Target("cpu", "avx512", str(more.get("dtype", "float32")), batch_size, threads=1),
        lineage=lineage(method, sparsity, pattern),
        layers=(entry,),
        size_bytes=1_200_000,
        macs_dense=entry.macs_dense,
        macs_nonzero=entry.macs_nonzero,
    )


def build_session(
    artifacts: Sequence[ArtifactRecord],
    rounds_ms: Mapping[str, Sequence[Sequence[float]]],
    accuracy: Mapping[str, float],
    control: Mapping[str, Sequence[Sequence[float]]] | None = None,
    threads: int = 1,
    load: float = 0.1,
) -> Measurements:
    """A session from latencies in ms: one list per round, per artifact digest."""
    sizes = {artifact.digest: artifact.target.batch_size for artifact in artifacts}

    def measurement(digest: str, metric: str, samples: Sequence[Sequence[float]], twin: bool) -> Measurement:
        return Measurement(
            artifact=digest,
            metric=metric,
            unit="ms" if metric == "latency" else "1",
            batch_size=sizes[digest],
            threads=threads,
            samples=tuple(tuple(turn) for turn in samples),
            control=twin,
        )

    measurements = [measurement(digest, "latency", turns, False) for digest, turns in rounds_ms.items()]
    measurements += [measurement(digest, "latency", turns, True) for digest, turns in (control or {}).items()]
    known = {digest: value for digest, value in accuracy.items() if digest in sizes}
    measurements += [measurement(digest, "accuracy", [[value]], False) for digest, value in known.items()]
    measurements += [measurement(digest, "memory", [[5e7]], False) for digest in rounds_ms]
    session = Session(
        schema_version=1,
        environment=environment(load),
        settings=Settings(rounds=len(next(iter(rounds_ms.values())))),
        threads=(threads,),
        evaluation="random",
        pictures=PICTURES,
    )
    end = End(ended="2026-11-23T12:03:00+00:00", load_average=(load,), complete=True)
    return Measurements(
        session=session, artifacts=tuple(artifacts), measurements=tuple(measurements), refusals=(), end=end
    )
