"""ONNX Runtime: the dense yardstick. The network goes out as an ONNX file, zeros and all."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

from compile.backend import Built, Effort
from compile.network import Network
from runtime.artifact import Requirements, Target

REASON = "ONNX Runtime's CPU kernels are dense: a zero costs what any weight costs"


def unable(device: str, dtype: str = "float32") -> str | None:
    """It builds for CPUs alone, in float32."""
    if device != "cpu":
        return "the onnxruntime backend is the yardstick on CPUs; give --backend inductor for a GPU"
    return None if dtype == "float32" else "the onnxruntime backend computes in float32; native takes float16"


def architecture(wanted: str, device: str = "cpu") -> str:
    """ONNX Runtime chooses its instructions when it loads the model."""
    del wanted, device
    return platform.machine()


def uses_zeros(device: str = "cpu") -> bool:
    """No kernel of it skips zeros."""
    del device
    return False


def several_batch_sizes() -> bool:
    """The model's shapes are those of one batch size."""
    return False


def build(network: Network, target: Target, folder: Path, effort: Effort) -> Built:
    """Write ``payload/model.onnx`` with its weights inside.

    Raises:
        UserError: an operator has no ONNX form, or a file is fixed to another batch size.
    """
    del target, effort
    payload = folder / "payload"
    payload.mkdir(parents=True)
    network.write_onnx(payload / "model.onnx")
    return Built(
        engine="onnxruntime",
        formats={layer.name: ("dense", REASON) for layer in network.layers()},
        requirements=Requirements(packages={"onnxruntime": importlib.metadata.version("onnxruntime")}),
    )
