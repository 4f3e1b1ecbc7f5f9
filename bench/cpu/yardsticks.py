"""What else runs the model of an onnxruntime artifact: OpenVINO, and both engines in less than float32.

On a processor with instructions for bfloat16 or int8 that is what a user would take instead, and not float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
import numpy as np

from bench.machine.precision import INSTRUCTIONS, precisions_of
from bench.measure.onnx_layers import layers_of, read_model
from bench.measurement import Refusal
from bench.naming import FLOAT, engine_key, engine_label
from bench.quantize import quantise
from runtime.artifact import open_artifact
from runtime.data import sha256_of
from runtime.errors import UserError
from runtime.machine import cpu_flags

if TYPE_CHECKING:
    from bench.measure.participant import Entry
    from bench.measurement import ArtifactRecord

OPENVINO = "openvino"
BFLOAT16, INT8 = "bfloat16", "int8"
CALIBRATION_PICTURES = 16
_SEED = 1  # other noise than what the evaluation set holds


def as_openvino(entry: Entry) -> Entry:
    """The same artifact, run by OpenVINO in float32."""
    return msgspec.structs.replace(entry, record=_run_by(entry.record, OPENVINO, FLOAT))


def below_float32(entry: Entry) -> tuple[list[Entry], list[Refusal]]:
    """An onnxruntime artifact's model in bfloat16 and in int8, and why not where it cannot be.

    The quantised file is made beside the artifact, once for this very artifact.
    """
    weights = entry.record.name.partition("/")[0]
    native = precisions_of(cpu_flags())
    entries, refusals = [], []
    if BFLOAT16 in native:
        record = _run_by(entry.record, OPENVINO, BFLOAT16)
        entries.append(msgspec.structs.replace(entry, folder=str(_model(entry)), record=record))
    else:
        reason = f"this processor has no instructions for it ({', '.join(INSTRUCTIONS[BFLOAT16])})"
        refusals.append(Refusal(f"{weights} with {engine_label(OPENVINO, BFLOAT16)}", reason))
    try:
        path = _quantised(entry)
    except UserError as error:
        return entries, [*refusals, Refusal(f"{weights} in {INT8}", str(error))]
    record = _described(entry.record, path)
    # what is not quantised OpenVINO computes in bfloat16 by itself where it can
    rest = f"{INT8}+{BFLOAT16}" if BFLOAT16 in native else INT8
    for engine, dtype in ((entry.record.engine, INT8), (OPENVINO, rest)):
        entries.append(msgspec.structs.replace(entry, folder=str(path), record=_run_by(record, engine, dtype)))
    return entries, refusals


def _run_by(record: ArtifactRecord, engine: str, dtype: str) -> ArtifactRecord:
    target = msgspec.structs.replace(record.target, dtype=dtype)
    digest = f"{engine_key(engine, dtype)}:{record.digest}"
    return msgspec.structs.replace(record, digest=digest, backend=engine, engine=engine, target=target)


def _model(entry: Entry) -> Path:
    return Path(entry.folder) / "payload/model.onnx"


def _quantised(entry: Entry) -> Path:
    """The quantised file; its name has the digest of the artifact, so that it is never another's."""
    folder = Path(entry.folder)
    path = folder.with_name(f"{folder.name}-{INT8}-{entry.record.digest.rpartition(':')[2][:12]}.onnx")
    if not path.exists():
        for older in folder.parent.glob(f"{folder.name}-{INT8}-*.onnx"):
            older.unlink()
        click.echo(f"quantising {entry.record.name} to {INT8}", err=True)
        preprocessing = open_artifact(folder, verify=False).manifest.preprocessing
        pictures = max(CALIBRATION_PICTURES, entry.record.target.batch_size)
        noise = np.random.default_rng(_SEED).integers(0, 256, (pictures, *preprocessing.shape), np.uint8)
        quantise(_model(entry), preprocessing.apply(noise), path)
    return path


def _described(record: ArtifactRecord, path: Path) -> ArtifactRecord:
    layers = layers_of(read_model(path), record.target.batch_size)
    return msgspec.structs.replace(
        record,
        digest=sha256_of(path),
        name=f"{record.name}-{INT8}",
        layers=layers,
        size_bytes=path.stat().st_size,
        macs_dense=sum(layer.macs_dense for layer in layers),
        macs_nonzero=sum(layer.macs_nonzero for layer in layers),
    )
