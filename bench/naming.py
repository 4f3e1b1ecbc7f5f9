"""How an artifact is called in a sentence: its checkpoint, who computes, and in what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.measurement import checkpoint_name

if TYPE_CHECKING:
    from bench.measurement import ArtifactRecord

FLOAT = "float32"
NATIVE = "native"
"""Our own CPU engine."""


def engine_label(backend: str, dtype: str) -> str:
    """``openvino bfloat16``; what says no precision computes in float32."""
    return backend if dtype == FLOAT else f"{backend} {dtype}"


def engine_key(engine: str, dtype: str) -> str:
    """``openvino-bfloat16``: as ``--baseline`` and digests have it."""
    return engine if dtype == FLOAT else f"{engine}-{dtype}"


def label_of(record: ArtifactRecord) -> str:
    """``st3-unstructured-0.9 with native float16``."""
    return f"{checkpoint_name(record)} with {engine_label(record.backend, record.target.dtype)}"
