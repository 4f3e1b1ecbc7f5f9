"""One checkpoint or ONNX file and one target in, one artifact out."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

import msgspec
import numpy as np

from compile.backend import AS_MODELLED, Built, Effort, LayerFacts, backend_names, find_backend
from compile.entrance import is_onnx, open_network, source_digest
from compile.network import Network, Normalisation, Origin
from runtime.artifact import (
    GOLDEN_INPUTS,
    SCHEMA_VERSION,
    LayerEntry,
    Manifest,
    Target,
    TensorSpec,
    Tolerance,
    golden_output,
    list_files,
    open_artifact,
    write_manifest,
)
from runtime.errors import ArtifactError, UserError
from st3.checkpoint import load_checkpoint

# float32 sums in another order differ by some 1e-6 of the largest logit; a wrong tap or weight by far more than this
TOLERANCE = 1e-4
# of what was measured on the golden inputs, where the target computes in fewer bits than the reference: another
# kernel or GPU rounds elsewhere, but not four times as much
MARGIN = 4.0
DEVICES: dict[str, tuple[str, ...]] = {"cpu": ("float32", "float16"), "cuda": ("float16", "bfloat16", "float32")}
"""What can be compiled for, and the dtypes that it computes in, the default first."""
_GOLDEN_SEED = 20221201


def lower(
    source: Path,
    out: Path,
    backend_name: str,
    batch_sizes: tuple[int, ...],
    threads: int,
    isa: str,
    effort: Effort = AS_MODELLED,
    normalisation: Normalisation | None = None,
    device: str = "cpu",
    dtype: str = "float32",
) -> Path:
    """Build one artifact.

    Args:
        source: a checkpoint, or an ONNX file.
        out: folder under which the artifact ``artifact_name(...)`` is written; it replaces an older one whole.
        backend_name: which backend builds it.
        batch_sizes: numbers of pictures per run that the artifact is built for, ascending.
        threads: CPU threads that the engine uses unless told otherwise.
        isa: instruction set for the native backend, or a GPU's architecture; ``native`` for this machine's.
        effort: whether to measure alternatives, and whom to tell what happens.
        normalisation: of an ONNX file's pictures; a checkpoint has its own.
        device: ``cpu`` or ``cuda``.
        dtype: what to compute in; inputs and outputs are float32.

    Returns:
        The artifact's folder.

    Raises:
        UserError: the source is damaged, the target impossible, or the backend lacks an operator or a tool.
    """
    check_batch_sizes(backend_name, batch_sizes)
    check_device(backend_name, device, dtype)
    if threads < 1:
        raise UserError(f"threads must be 1 or more, got {threads}")
    backend = find_backend(backend_name)
    largest = batch_sizes[-1]
    target = Target(device, backend.architecture(isa, device), dtype, largest, threads, batch_sizes)
    network, origin = open_network(source, largest, normalisation)
    final = out / artifact_name(backend_name, batch_sizes, device, dtype, isa)
    part = out / f".{final.name}.part-{os.getpid()}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        outputs = _write_golden(part, network)
        built = backend.build(network, target, part, effort)
        name = f"{source_name(source)}/{final.name}"
        write_manifest(part, _manifest(name, backend_name, built, network, origin, target, outputs, part))
        if final.exists():
            shutil.rmtree(final)
        part.rename(final)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return final


def source_name(source: Path) -> str:
    """A checkpoint's folder name, or a file's without ``.onnx``."""
    return source.stem if is_onnx(source) else source.resolve().name


def artifact_name(
    backend_name: str, batch_sizes: tuple[int, ...], device: str = "cpu", dtype: str = "float32", isa: str = "native"
) -> str:
    """``native-b1``; of several batch sizes in one ``native-b1-16``; of a GPU's ``inductor-cuda-float16-b32``.

    On a CPU in half precision ``native-float16-b1``; for another instruction set than this machine's widest
    ``native-avx2-b1``, for another GPU than the one here ``inductor-cuda-sm_80-float16-b32``: all can lie side by side.
    """
    target = [] if device == "cpu" else [device]
    architecture = find_backend(backend_name).architecture(isa, device)
    if isa != "native" and architecture != _here(backend_name, device):
        target.append(architecture)
    if device != "cpu" or dtype != "float32":
        target.append(dtype)
    return "-".join([backend_name, *target, f"b{'-'.join(map(str, batch_sizes))}"])


def _here(backend_name: str, device: str) -> str:
    """The architecture that an artifact is for if none is named; empty where this machine has none."""
    try:
        return find_backend(backend_name).architecture("native", device)
    except UserError:
        return ""


def check_device(backend_name: str, device: str, dtype: str) -> None:
    """Raise ``UserError`` where there is no such target, or the backend cannot build for it on this machine."""
    for option, given, known in (("--target", device, tuple(DEVICES)), ("--dtype", dtype, DEVICES.get(device, ()))):
        if given not in known:
            where = f" on {device}" if option == "--dtype" else ""
            raise UserError(f"{option} {given} is unknown{where}; choose one of {', '.join(known)}")
    reason = find_backend(backend_name).unable(device, dtype)
    if reason is not None:
        raise UserError(f"--target {device} --dtype {dtype}: {reason}")


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


def up_to_date(
    source: Path,
    artifact: Path,
    threads: int,
    isa: str,
    normalisation: Normalisation | None = None,
    device: str = "cpu",
    dtype: str = "float32",
) -> bool:
    """Whether an artifact is whole, of this schema, and from this very source for this target and these pictures."""
    try:
        manifest = open_artifact(artifact).manifest
    except ArtifactError:
        return False
    target = manifest.target
    if manifest.schema_version != SCHEMA_VERSION or target.threads != threads:
        return False
    if (target.device, target.dtype) != (device, dtype):
        return False
    if target.architecture != find_backend(manifest.backend).architecture(isa, device):
        return False
    if is_onnx(source):
        wanted = (normalisation or Normalisation()).of(manifest.preprocessing.shape)
        if manifest.preprocessing != wanted:
            return False
    elif normalisation is not None:
        return False  # a checkpoint has its own; `lower` says so
    return manifest.lineage.checkpoint_sha256 == source_digest(source)


def backends_for(source: Path, device: str = "cpu", wanted: str = "native", dtype: str = "float32") -> list[str]:
    """The backends that make sense: all for a dense checkpoint, those that use zeros for a sparse one or a file.

    A backend that computes zeros takes as long for a sparse checkpoint as for a dense one; ask for it by name to see.
    One that cannot build for the device and dtype here is left out, and so is one that has not the architecture, if
    others do.
    """
    able = [name for name in backend_names() if find_backend(name).unable(device, dtype) is None]
    able = [name for name in able if _knows(name, wanted, device)] or able
    dense = not is_onnx(source) and load_checkpoint(source).info.method == "dense"
    return [name for name in able if dense or find_backend(name).uses_zeros(device)]


def _knows(backend_name: str, wanted: str, device: str) -> bool:
    try:
        find_backend(backend_name).architecture(wanted, device)
    except UserError:
        return False
    return True


def _write_golden(folder: Path, network: Network) -> list[TensorSpec]:
    """Inputs like normalised pictures, and what the network as it was given answers; what that consists of."""
    inputs = np.random.default_rng(_GOLDEN_SEED).standard_normal(network.input_shape).astype(np.float32)
    outputs = network.answer(inputs)
    (folder / GOLDEN_INPUTS).parent.mkdir()
    np.save(folder / GOLDEN_INPUTS, inputs, allow_pickle=False)
    for index, output in enumerate(outputs):
        np.save(folder / golden_output(index), output, allow_pickle=False)
    return [
        TensorSpec(name, output.shape, "float32") for name, output in zip(network.output_names, outputs, strict=True)
    ]


def _manifest(
    name: str,
    backend_name: str,
    built: Built,
    network: Network,
    origin: Origin,
    target: Target,
    outputs: list[TensorSpec],
    folder: Path,
) -> Manifest:
    versions = origin.lineage.versions | {"compiled_with_python": platform.python_version()}
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name=name,
        backend=backend_name,
        engine=built.engine,
        target=target,
        lineage=msgspec.structs.replace(origin.lineage, versions=versions),
        input=TensorSpec(network.input_name, network.input_shape, "float32"),
        output=outputs[0],
        classes=origin.classes,
        preprocessing=origin.preprocessing,
        layers=_layer_table(built, network, origin.patterns),
        tolerance=_tolerance(built),
        requirements=built.requirements,
        files=list_files(folder),
        proof=built.proof,
        more_outputs=tuple(outputs[1:]),
    )


def _tolerance(built: Built) -> Tolerance:
    if not built.deviations:
        return Tolerance(TOLERANCE)
    first, *more = (max(TOLERANCE, MARGIN * deviation) for deviation in built.deviations)
    return Tolerance(first, tuple(more))


def _layer_table(built: Built, network: Network, patterns: dict[str, str]) -> tuple[LayerEntry, ...]:
    entries = []
    for layer in network.layers():
        form, reason = built.formats[layer.name]
        facts = built.facts.get(layer.name, LayerFacts())
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
                **msgspec.structs.asdict(facts),
            )
        )
    return tuple(entries)
