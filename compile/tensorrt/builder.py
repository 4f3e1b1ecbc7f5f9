"""Builds a plan from an ONNX model with the TensorRT Python API, 10, 11 or for RTX."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import msgspec
import torch
from onnx import ModelProto

from runtime.errors import UserError
from runtime.trt import RTX, Library


class BuiltPlan(msgspec.Struct, frozen=True):
    """The serialised plan, what the builder said, and the engine inspector's JSON (empty where it could not run)."""

    plan: bytes
    log: tuple[str, ...]
    inspection: str


def build_plan(library: Library, model: ModelProto, architecture: str) -> BuiltPlan:
    """Parse a strongly typed model and build it with sparse weights allowed.

    Args:
        library: which TensorRT.
        model: with static shapes and its weights inside.
        architecture: what TensorRT for RTX builds for; TensorRT itself builds for the GPU at hand.

    Raises:
        UserError: the parser or the builder refused, with what they said.
    """
    trt = library.module
    lines: list[str] = []
    logger = _logger(trt, lines)
    builder = trt.Builder(logger)
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        errors = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise UserError(f"{library.title} cannot read the network: {errors or _last_error(lines)}; use another backend")
    config = _config(builder, library, architecture)
    cache = None if library.key == RTX else _load_timings(config, library)  # RTX times nothing when it builds
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise UserError(
            f"{library.title} cannot build the network for {architecture}: {_last_error(lines)}; use another backend"
        )
    if cache is not None:
        _store_timings(config, library)
    plan = bytes(built)
    return BuiltPlan(plan, tuple(lines), inspect_plan(library, plan))


def _config(builder: Any, library: Library, architecture: str) -> Any:
    """Sparse weights allowed, every layer described; for RTX the one architecture."""
    trt = library.module
    config = builder.create_builder_config()
    config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if library.key == RTX:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, architecture.replace("sm_", "SM")), 0)
    return config


def _strongly_typed(trt: Any) -> int:
    """The network's flag; where a version has nothing but strong typing and no flag for it, none."""
    flag = trt.NetworkDefinitionCreationFlag.__members__.get("STRONGLY_TYPED")
    return 0 if flag is None else 1 << int(flag)


def _logger(trt: Any, lines: list[str]) -> Any:
    """A logger that keeps everything, as ``[V] text``."""

    class Keeper(trt.ILogger):  # type: ignore[misc]  # the base class is known when TensorRT is loaded
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            lines.append(f"[{severity.name[0]}] {message}")

    return Keeper()


def _last_error(lines: list[str]) -> str:
    errors = [line[4:] for line in lines if line.startswith(("[E]", "[I] Error"))]
    return errors[-1].strip() if errors else "it says nothing of why"


def inspect_plan(library: Library, plan: bytes) -> str:
    """The engine inspector's JSON; empty without a GPU, which loading a plan needs."""
    if not torch.cuda.is_available():
        return ""
    logger = _logger(library.module, [])
    engine = library.module.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        return ""
    kind = library.module.LayerInformationFormat.JSON
    return str(engine.create_engine_inspector().get_engine_information(kind))


def timing_file(library: Library, gpu: str) -> Path:
    """``$XDG_CACHE_HOME/st3/tensorrt-VERSION-GPU.timings``; deleting it loses nothing but time."""
    base = os.environ.get("XDG_CACHE_HOME")
    where = (Path(base) if base else Path.home() / ".cache") / "st3"
    return where / f"{library.key}-{library.version}-{re.sub(r'[^A-Za-z0-9]+', '_', gpu)}.timings"


def _load_timings(config: Any, library: Library) -> Any:
    """Give the builder what it measured before on this GPU; a cache that it does not take is begun anew."""
    try:
        known = timing_file(library, torch.cuda.get_device_name()).read_bytes()
    except OSError:
        known = b""
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _store_timings(config: Any, library: Library) -> None:
    """Keep what was measured. A cache that cannot be written is no reason to fail."""
    path = timing_file(library, torch.cuda.get_device_name())
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(bytes(config.get_timing_cache().serialize()))
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
