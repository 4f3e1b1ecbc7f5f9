"""ONNX Runtime: the dense yardstick. The graph goes out through torch's ONNX exporter, zeros and all."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import platform
import warnings
from pathlib import Path

from compile.backend import Built, Effort
from compile.capture import Captured
from compile.layers import read_layers
from runtime.artifact import Requirements, Target
from runtime.errors import UserError

REASON = "ONNX Runtime's CPU kernels are dense: a zero costs what any weight costs"


def architecture(isa: str) -> str:
    """ONNX Runtime chooses its instructions when it loads the model."""
    del isa
    return platform.machine()


def uses_zeros() -> bool:
    """No kernel of it skips zeros."""
    return False


def several_batch_sizes() -> bool:
    """The exported model has one fixed batch size."""
    return False


def build(captured: Captured, target: Target, folder: Path, effort: Effort) -> Built:
    """Export ``payload/model.onnx`` with its weights inside.

    Raises:
        UserError: an operator has no ONNX form.
    """
    import torch

    del target, effort
    payload = folder / "payload"
    payload.mkdir(parents=True)
    talk = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(talk), contextlib.redirect_stderr(talk):
            warnings.simplefilter("ignore")  # the exporter warns of its own internals, which no user can change
            program = torch.onnx.export(
                captured.program, input_names=["input"], output_names=["output"], dynamo=True, verbose=False
            )
            assert program is not None
            program.save(payload / "model.onnx", external_data=False)
    except torch.onnx.errors.OnnxExporterError as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"the network cannot be written as ONNX: {first}; use another backend") from error
    return Built(
        engine="onnxruntime",
        formats={layer.name: ("dense", REASON) for layer in read_layers(captured)},
        requirements=Requirements(packages={"onnxruntime": importlib.metadata.version("onnxruntime")}),
    )
