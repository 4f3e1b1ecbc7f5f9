"""Runs an ONNX file, or a model made from it, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import UserError


def run_onnx(
    path: Path, model: str | bytes, input_name: str, output_names: Sequence[str], inputs: NDArray[np.float32]
) -> list[NDArray[np.float32]]:
    """The outputs as float32.

    Args:
        path: of the file, for messages.
        model: the path itself, or the bytes of what was made from the file.
        input_name: of the pictures.
        output_names: what is wanted.
        inputs: ``(B, C, H, W)``.

    Raises:
        UserError: ONNX Runtime cannot run it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # node by node, as the file says: its optimiser (1.21 to 1.30) lets a padding with zeros vanish in a MaxPool
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        results = session.run(list(output_names), {input_name: inputs})
    except Exception as error:  # ONNX Runtime raises a class of its own for each status code
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"ONNX Runtime {onnxruntime.__version__}, which gives the reference answers, cannot run {path}: {first}"
        ) from error
    return [np.asarray(result, np.float32) for result in results]
