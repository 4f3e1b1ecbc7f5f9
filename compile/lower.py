"""One checkpoint and one target in, one artifact out."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from compile.backend import AS_MODELLED, Built, Effort, backend_names, find_backend
from compile.capture import Captured, capture
from compile.layers import read_layers
from runtime.artifact import (
    SCHEMA_VERSION,
    LayerEntry,
    Lineage,
    Manifest,
    Target,
    TensorSpec,
    Tolerance,
    list_files,
    open_artifact,
    write_manifest,
)
from runtime.data import sha256_of
from runtime.errors import ArtifactError, UserError
from st3.checkpoint import Checkpoint, load_checkpoint

# float32 sums in another order differ by some 1e-6 of the largest logit; a wrong tap or weight by far more than this
TOLERANCE = 1e-4
_GOLDEN_SEED = 20221201


def lower(
    folder: Path,
    out: Path,
    backend_name: str,
    batch_sizes: tuple[int, ...],
    threads: int,
    isa: str,
    effort: Effort = AS_MODELLED,
) -> Path:
    """Build one artifact.

    Args:
        folder: a checkpoint.
        out: folder under which the artifact ``artifact_name(...)`` is written; it replaces an older one whole.
        backend_name: which backend builds it.
        batch_sizes: numbers of pictures per run that the artifact is built for, ascending.
        threads: CPU threads that the engine uses unless told otherwise.
        isa: instruction set for the native backend, ``native`` for this machine's.
        effort: whether to measure alternatives, and whom to tell what happens.

    Returns:
        The artifact's folder.

    Raises:
        UserError: the checkpoint is damaged, the target impossible, or the backend lacks an operator or a tool.
    """
    check_batch_sizes(backend_name, batch_sizes)
    if threads < 1:
        raise UserError(f"threads must be 1 or more, got {threads}")
    backend = find_backend(backend_name)
    largest = batch_sizes[-1]
    target = Target("cpu", backend.architecture(isa), "float32", largest, threads, batch_sizes)
    checkpoint = load_checkpoint(folder)
    program = checkpoint.exported_program()
    captured = capture(program, checkpoint.info.preprocessing.shape, largest)
    final = out / artifact_name(backend_name, batch_sizes)
    part = out / f".{final.name}.part-{os.getpid()}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        built = backend.build(captured, target, part, effort)
        output = _write_golden(part / "golden", program, captured.input_shape)
        name = f"{folder.name}/{final.name}"
        write_manifest(part, _manifest(name, backend_name, built, checkpoint, captured, target, output, part))
        if final.exists():
            shutil.rmtree(final)
        part.rename(final)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return final


def artifact_name(backend_name: str, batch_sizes: tuple[int, ...]) -> str:
    """``native-b1`` or, where an artifact holds several batch sizes, ``native-b1-16``."""
    return f"{backend_name}-b{'-'.join(map(str, batch_sizes))}"


def check_batch_sizes(backend_name: str, batch_sizes: tuple[int, ...]) -> None:
    """Raise ``UserError`` where a size is not positive or the backend cannot hold several in one artifact."""
    if min(batch_sizes) < 1:
        raise UserError(f"a batch size must be 1 or more, got {min(batch_sizes)}")
    if len(batch_sizes) > 1 and not find_backend(backend_name).several_batch_sizes():
        able = ", ".join(name for name in backend_names() if find_backend(name).several_batch_sizes())
        listed = ",".join(map(str, batch_sizes))
        repeated = " ".join(f"--batch-size {size}" for size in batch_sizes)
        raise UserError(
            f"an artifact of the backend {backend_name} has one batch size, got {listed}; "
            f"give {repeated} for an artifact each, or --backend {able}"
        )


def up_to_date(checkpoint: Path, artifact: Path, threads: int) -> bool:
    """Whether an artifact is whole, of this schema, and was made from this very checkpoint for this many threads."""
    try:
        manifest = open_artifact(artifact).manifest
    except ArtifactError:
        return False
    digest = sha256_of(checkpoint / "checkpoint.json")
    current = manifest.schema_version == SCHEMA_VERSION
    return current and manifest.lineage.checkpoint_sha256 == digest and manifest.target.threads == threads


def backends_for(checkpoint: Path) -> list[str]:
    """The backends that make sense for a checkpoint: all for a dense one, those that use zeros for a sparse one.

    A backend that computes zeros takes as long for a sparse checkpoint as for a dense one; ask for it by name to see.
    """
    dense = load_checkpoint(checkpoint).info.method == "dense"
    return [name for name in backend_names() if dense or find_backend(name).uses_zeros()]


def _write_golden(folder: Path, program: ExportedProgram, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Inputs like normalised pictures, and what the checkpoint itself, unfolded, answers in torch."""
    inputs = np.random.default_rng(_GOLDEN_SEED).standard_normal(shape).astype(np.float32)
    with torch.no_grad():
        outputs: NDArray[np.float32] = program.module()(torch.from_numpy(inputs)).numpy()
    folder.mkdir()
    np.save(folder / "inputs.npy", inputs, allow_pickle=False)
    np.save(folder / "outputs.npy", outputs, allow_pickle=False)
    return outputs


def _manifest(
    name: str,
    backend_name: str,
    built: Built,
    checkpoint: Checkpoint,
    captured: Captured,
    target: Target,
    output: NDArray[np.float32],
    folder: Path,
) -> Manifest:
    info = checkpoint.info
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name=name,
        backend=backend_name,
        engine=built.engine,
        target=target,
        lineage=Lineage(
            recipe=info.recipe,
            method=info.method,
            pattern=info.pattern,
            target_sparsity=info.target_sparsity,
            sparsity=info.sparsity,
            accuracy=info.accuracy,
            seed=info.seed,
            commit=info.commit,
            checkpoint_sha256=sha256_of(checkpoint.folder / "checkpoint.json"),
            versions=info.versions | {"compiled_with_python": platform.python_version()},
        ),
        input=TensorSpec("input", captured.input_shape, "float32"),
        output=TensorSpec("output", output.shape, "float32"),
        classes=info.classes,
        preprocessing=info.preprocessing,
        layers=_layer_table(built, checkpoint, captured),
        tolerance=Tolerance(TOLERANCE),
        requirements=built.requirements,
        files=list_files(folder),
    )


def _layer_table(built: Built, checkpoint: Checkpoint, captured: Captured) -> tuple[LayerEntry, ...]:
    patterns = {layer.name: layer.pattern for layer in checkpoint.info.layers}
    entries = []
    for layer in read_layers(captured):
        form, reason = built.formats[layer.name]
        nonzeros = int(np.count_nonzero(layer.weight))
        entries.append(
            LayerEntry(
                name=layer.name,
                op=layer.op,
                weight_shape=layer.weight.shape,
                pattern=patterns.get(layer.name, "dense"),
                nonzeros=nonzeros,
                density=nonzeros / layer.weight.size,
                macs_dense=layer.macs_dense,
                macs_nonzero=layer.macs_nonzero,
                format=form,
                reason=reason,
            )
        )
    return tuple(entries)
