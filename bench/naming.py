"""How an artifact is called in a sentence: its checkpoint, who computes, and in what."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.measurement import ArtifactRecord

FLOAT = "float32"
NATIVE = "native"
"""Our own CPU engine."""


def checkpoint_name(record: ArtifactRecord) -> str:
    """``st3-2to4-0.5``, ``gmp-unstructured-0.95``, ``dense``: the folder that training gave the checkpoint.

    ``resnet50.onnx`` for what was compiled from a file, and for a yardstick.
    """
    lineage = record.lineage
    if record.yardstick:
        return record.name
    if lineage.method == "dense":
        return "dense"
    if lineage.method == "onnx":
        return lineage.recipe
    return f"{lineage.method}-{lineage.pattern.replace(':', 'to')}-{lineage.target_sparsity:g}"


def engine_label(backend: str, dtype: str) -> str:
    """``openvino bfloat16``; what says no precision computes in float32."""
    return backend if dtype == FLOAT else f"{backend} {dtype}"


def engine_key(engine: str, dtype: str) -> str:
    """``openvino-bfloat16``: as ``--baseline`` and digests have it."""
    return engine if dtype == FLOAT else f"{engine}-{dtype}"


def label_of(record: ArtifactRecord) -> str:
    """``st3-unstructured-0.9 with native float16``."""
    return f"{checkpoint_name(record)} with {engine_label(record.backend, record.target.dtype)}"
