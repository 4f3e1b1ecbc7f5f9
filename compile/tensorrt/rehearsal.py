"""Runs the fp16 model on the CPU with ONNX Runtime: how far fp16 is from the network as it was given."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from compile.network import Network
from runtime.errors import UserError

_SEED = 20221201
_LEAST = 2.0**-11
"""Half a unit of fp16's last place at the largest answer: no engine can promise less."""


def rehearse(model: ModelProto, network: Network) -> float:
    """``max|y - reference| / max|reference|`` of the model and the network on random pictures.

    Raises:
        UserError: ONNX Runtime refuses the model, or an activation leaves fp16's range.
    """
    inputs = np.random.default_rng(_SEED).standard_normal(network.input_shape).astype(np.float32)
    expected = network.answer(inputs)
    result = _run(model, network, inputs).reshape(expected.shape)
    if not np.isfinite(result).all():
        raise UserError(
            "the network leaves the range of fp16 (its answer is infinite or not a number), so TensorRT cannot run it "
            "in float16; use a backend that computes in float32"
        )
    error = float(np.abs(result - expected).max()) / (float(np.abs(expected).max()) or 1.0)
    return max(error, _LEAST)


def _run(model: ModelProto, network: Network, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        (result,) = session.run([network.output_name], {network.input_name: inputs})
    except Exception as error:  # ONNX Runtime raises a class of its own for each status code
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"ONNX Runtime {onnxruntime.__version__}, which rehearses the fp16 model, cannot run it: {first}; "
            f"use another backend"
        ) from error
    return np.asarray(result, np.float32)
