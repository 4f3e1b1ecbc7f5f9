"""Yardsticks: any ONNX file, run by a dense engine beside the artifacts (``--baseline ENGINE:FILE``)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bench.measure.onnx_layers import fixed_batch, layers_of, read_model, spec_of
from bench.measurement import ArtifactRecord
from runtime.artifact import Artifact, Lineage, Manifest, Requirements, Target, Tolerance, list_files
from runtime.data import Preprocessing, sha256_of
from runtime.engine import load_into
from runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime.data import EvaluationSet
    from runtime.engine import Engine

ENGINES = ("onnxruntime", "openvino")
SUFFIX = ".onnx"


class Yardstick(msgspec.Struct, frozen=True):
    """An ONNX file and who runs it."""

    engine: str
    path: Path


def parse(text: str) -> Yardstick:
    """Read ``ENGINE:FILE``; raises ``UserError`` where the engine is none, is not installed, or the file is missing."""
    engine, colon, path = text.partition(":")
    given = f"--baseline {text}"
    if not colon or engine not in ENGINES:
        raise UserError(f"{given}: it must be ENGINE:FILE{SUFFIX}, with {' or '.join(ENGINES)} for the engine")
    if importlib.util.find_spec(engine) is None:
        raise UserError(f"{given}: {engine} is not installed: pip install {engine}")
    if not Path(path).is_file():
        raise UserError(f"{given}: there is no file {path}; give an ONNX file")
    if not path.endswith(SUFFIX):
        raise UserError(f"{given}: {path} does not end with {SUFFIX}; give an ONNX file")
    return Yardstick(engine, Path(path).resolve())


def record_of(yardstick: Yardstick, sizes: Sequence[int], recipes: Sequence[str], threads: int) -> ArtifactRecord:
    """The record of a yardstick.

    Args:
        yardstick: the file and its engine.
        sizes: the batch sizes of the session; a file with a fixed one takes part in that alone.
        recipes: of the session's artifacts; the file stands beside them where there is one recipe only.
        threads: CPU threads.

    Raises:
        UserError: the file is no network of one picture tensor, or its batch size is none of ``sizes``.
    """
    model = read_model(yardstick.path)
    fixed = spec_of(model, yardstick.path).shape[0]
    if fixed and fixed not in sizes:
        raise UserError(
            f"{yardstick.path.name} has the batch size {fixed}, the artifacts have {', '.join(map(str, sizes))}; "
            f"export it with a batch size that is not fixed"
        )
    mine = (fixed,) if fixed else tuple(sizes)
    layers = layers_of(fixed_batch(model, mine[0]), mine[0])
    return ArtifactRecord(
        digest=f"{yardstick.engine}:{sha256_of(yardstick.path)}",
        name=yardstick.path.name,
        backend=yardstick.engine,
        engine=yardstick.engine,
        target=Target("cpu", "portable", "float32", mine[-1], threads, mine),
        lineage=_lineage(recipes[0] if len(set(recipes)) == 1 else yardstick.path.name),
        layers=layers,
        size_bytes=_size(yardstick.path),
        macs_dense=sum(layer.macs_dense for layer in layers),
        macs_nonzero=sum(layer.macs_nonzero for layer in layers),
        yardstick=True,
    )


def open_yardstick(
    path: Path, engine: str, batch_size: int, threads: int, evaluation: EvaluationSet, folder: Path
) -> Engine:
    """Load an ONNX file into an engine, as an artifact of one batch size that lies in ``folder`` for as long.

    Raises:
        UserError: the file cannot be read, or its engine refuses it.
    """
    import onnx

    model = fixed_batch(read_model(path, weights=True), batch_size)
    spec, output = spec_of(model, path), spec_of(model, path, output=True)
    (folder / "payload").mkdir()
    onnx.save(
        model,
        folder / "payload/model.onnx",
        save_as_external_data=model.ByteSize() > onnx.checker.MAXIMUM_PROTOBUF // 2,
    )
    shape = (spec.shape[1], spec.shape[2], spec.shape[3])
    info = evaluation.info
    fits = shape == info.preprocessing.shape and output.shape[1:] == (len(info.classes),)
    neutral = Preprocessing(shape, (0.0,) * shape[0], (1.0,) * shape[0])
    manifest = Manifest(
        schema_version=1,
        name=path.name,
        backend=engine,
        engine=engine,
        target=Target("cpu", "portable", "float32", batch_size, threads),
        lineage=_lineage(path.name),
        input=spec,
        output=output,
        classes=info.classes if fits else (),
        preprocessing=info.preprocessing if fits else neutral,
        layers=(),
        tolerance=Tolerance(0.0),
        requirements=Requirements(),
        files=list_files(folder),
    )
    return load_into(engine, Artifact(folder, manifest, path.name), threads)


def _lineage(recipe: str) -> Lineage:
    """Nothing is known of where the weights came from; the sparsity that counts is the layers'."""
    return Lineage(
        recipe=recipe,
        method="onnx",
        pattern="dense",
        target_sparsity=0.0,
        sparsity=0.0,
        accuracy=None,
        seed=None,
        commit="unknown",
        checkpoint_sha256="",
        versions={},
    )


def _size(path: Path) -> int:
    """The file, and what its weights take where they lie in files of their own."""
    from onnx.external_data_helper import ExternalDataInfo

    model = read_model(path)
    tensors = [tensor for tensor in model.graph.initializer if tensor.external_data]
    return path.stat().st_size + sum(ExternalDataInfo(tensor).length or 0 for tensor in tensors)
