"""Yardsticks: any ONNX file, run by a dense engine beside the artifacts (``--baseline ENGINE[-PRECISION]:FILE``)."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bench.machine.precision import INSTRUCTIONS, precisions_of
from bench.measure.onnx_layers import dtype_of, fixed_batch, layers_of, read_model, spec_of
from bench.measurement import ArtifactRecord
from bench.naming import FLOAT, engine_key
from runtime.artifact import Artifact, Lineage, Manifest, Requirements, Target, Tolerance, list_files
from runtime.data import Preprocessing, sha256_of
from runtime.engine import load_into
from runtime.errors import UserError
from runtime.machine import cpu_flags

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import ModelProto

    from runtime.artifact import LayerEntry
    from runtime.data import EvaluationSet
    from runtime.engine import Engine

ENGINES = {"onnxruntime": (FLOAT,), "openvino": (FLOAT, "bfloat16", "float16")}
"""Who can run one, and what each can be asked to compute a file in that is not quantised."""
SUFFIX = ".onnx"


class Yardstick(msgspec.Struct, frozen=True):
    """An ONNX file, who runs it, and in which precision where the file itself does not say it."""

    engine: str
    path: Path
    precision: str = FLOAT


def parse(text: str) -> Yardstick:
    """Read ``ENGINE:FILE`` or ``ENGINE-PRECISION:FILE``.

    Raises:
        UserError: the engine is none, is not installed, or does not compute in the precision; the processor has no
            instructions for it; the file is missing.
    """
    name, colon, path = text.partition(":")
    engine, _, precision = name.partition("-")
    given = f"--baseline {text}"
    if not colon or engine not in ENGINES:
        raise UserError(f"{given}: it must be ENGINE:FILE{SUFFIX}, with {' or '.join(ENGINES)} for the engine")
    precision = precision or FLOAT
    _check_precision(given, engine, precision)
    if importlib.util.find_spec(engine) is None:
        raise UserError(f"{given}: {engine} is not installed: pip install {engine}")
    if not Path(path).is_file():
        raise UserError(f"{given}: there is no file {path}; give an ONNX file")
    if not path.endswith(SUFFIX):
        raise UserError(f"{given}: {path} does not end with {SUFFIX}; give an ONNX file")
    return Yardstick(engine, Path(path).resolve(), precision)


def _check_precision(given: str, engine: str, precision: str) -> None:
    """An engine would fall back in silence, and float32 pass for less."""
    if precision not in ENGINES[engine]:
        others = ", ".join(f"{name}-{one}" for name, known in ENGINES.items() for one in known if one != FLOAT)
        raise UserError(
            f"{given}: {engine} cannot be asked for {precision} on a CPU; there are {others}, and a quantised file "
            f"(python -m bench.quantize) runs in int8 as it is"
        )
    flags = cpu_flags()
    if precision != FLOAT and flags and precision not in precisions_of(flags):
        raise UserError(
            f"{given}: this processor has no instructions for {precision} ({', '.join(INSTRUCTIONS[precision])}), so "
            f"that {engine} would compute in float32; give {engine}:FILE{SUFFIX}"
        )


def record_of(yardstick: Yardstick, sizes: Sequence[int], recipes: Sequence[str], threads: int) -> ArtifactRecord:
    """The record of a yardstick.

    Args:
        yardstick: the file and its engine.
        sizes: the batch sizes of the session; a file with a fixed one takes part in that alone.
        recipes: of the session's artifacts; the file stands beside them where there is one recipe only.
        threads: CPU threads.

    Raises:
        UserError: the file is no network of one picture tensor, or its batch size is none of ``sizes``; its engine
            refuses it, or does not compute in the precision.
    """
    model = read_model(yardstick.path)
    fixed = spec_of(model, yardstick.path).shape[0]
    if fixed and fixed not in sizes:
        raise UserError(
            f"{yardstick.path.name} has the batch size {fixed}, the artifacts have {', '.join(map(str, sizes))}; "
            f"export it with a batch size that is not fixed"
        )
    mine = (fixed,) if fixed else tuple(sizes)
    first = fixed_batch(model, mine[0])
    layers, dtype = layers_of(first, mine[0]), _dtype(yardstick.precision, dtype_of(first))
    if yardstick.engine == "openvino" and dtype != FLOAT:
        layers = _proven(layers, fixed_batch(read_model(yardstick.path, weights=True), mine[0]), dtype, threads)
    return ArtifactRecord(
        digest=f"{engine_key(yardstick.engine, yardstick.precision)}:{sha256_of(yardstick.path)}",
        name=yardstick.path.name,
        backend=yardstick.engine,
        engine=yardstick.engine,
        target=Target("cpu", "portable", dtype, mine[-1], threads, mine),
        lineage=_lineage(recipes[0] if len(set(recipes)) == 1 else yardstick.path.name),
        layers=layers,
        size_bytes=_size(yardstick.path),
        macs_dense=sum(layer.macs_dense for layer in layers),
        macs_nonzero=sum(layer.macs_nonzero for layer in layers),
        yardstick=True,
    )


def _dtype(precision: str, in_file: str) -> str:
    """What a target says: a quantised file's own, and behind a plus what the rest of it is computed in."""
    if in_file == FLOAT:
        return precision
    return in_file if precision == FLOAT else f"{in_file}+{precision}"


def _proven(layers: tuple[LayerEntry, ...], model: ModelProto, dtype: str, threads: int) -> tuple[LayerEntry, ...]:
    """The layers, with what OpenVINO's own plan says of the precision in their reasons."""
    from runtime.engines.openvino import computed_in

    with tempfile.TemporaryDirectory() as folder:
        ran = computed_in(_save(model, Path(folder)), dtype, threads)
    words = ", ".join(f"{count} in {name}" for name, count in ran.items())
    return tuple(
        msgspec.structs.replace(layer, reason=f"{layer.reason}; of all layers OpenVINO computes {words}")
        for layer in layers
    )


def _save(model: ModelProto, folder: Path) -> Path:
    import onnx

    path = folder / "model.onnx"
    onnx.save(model, path, save_as_external_data=model.ByteSize() > onnx.checker.MAXIMUM_PROTOBUF // 2)
    return path


def open_yardstick(
    path: Path, engine: str, dtype: str, batch_size: int, threads: int, evaluation: EvaluationSet, folder: Path
) -> Engine:
    """Load an ONNX file into an engine, as an artifact of one batch size that lies in ``folder`` for as long.

    ``dtype`` is its record's.

    Raises:
        UserError: the file cannot be read, or its engine refuses it.
    """
    model = fixed_batch(read_model(path, weights=True), batch_size)
    spec, output = spec_of(model, path), spec_of(model, path, output=True)
    (folder / "payload").mkdir()
    _save(model, folder / "payload")
    shape = (spec.shape[1], spec.shape[2], spec.shape[3])
    info = evaluation.info
    fits = shape == info.preprocessing.shape and output.shape[1:] == (len(info.classes),)
    neutral = Preprocessing(shape, (0.0,) * shape[0], (1.0,) * shape[0])
    manifest = Manifest(
        schema_version=1,
        name=path.name,
        backend=engine,
        engine=engine,
        target=Target("cpu", "portable", dtype, batch_size, threads),
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
