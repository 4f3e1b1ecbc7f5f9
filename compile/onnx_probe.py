"""``python -m compile.onnx_probe``: the shapes of values of an ONNX file, by a run on zeros, in a process of its own.

Takes a ``Question`` on stdin and prints the shapes as JSON.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import onnx
from onnx import ValueInfoProto, inliner

from compile.onnx_run import run_onnx
from runtime.errors import UserError

_TIMEOUT_S = 300.0


class Question(msgspec.Struct, frozen=True):
    """Which file, its input with a shape ``(B, C, H, W)``, and the names of values, each once."""

    path: str
    input: str
    shape: tuple[int, int, int, int]
    values: tuple[str, ...]


def shapes(question: Question) -> dict[str, tuple[int, ...]]:
    """The values' shapes by name.

    ONNX Runtime is asked, not ``onnx.shape_inference``, which takes minutes and all memory for some damaged files. Both
    end their process at others, for instance at a pooling that is larger than its map.

    Raises:
        UserError: it cannot be run.
    """
    command = [sys.executable, "-m", "compile.onnx_probe"]
    try:
        done = subprocess.run(
            command, input=msgspec.json.encode(question), capture_output=True, timeout=_TIMEOUT_S, check=True
        )
        return msgspec.json.decode(done.stdout, type=dict[str, tuple[int, ...]])
    except (subprocess.SubprocessError, msgspec.MsgspecError) as error:
        raise UserError(f"{question.path} cannot be run: {error}") from error


def _answer(question: Question) -> dict[str, tuple[int, ...]]:
    model = onnx.load(question.path)
    if model.functions:
        model = inliner.inline_local_functions(model)
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(ValueInfoProto(name=name) for name in question.values if name not in known)
    inputs = np.zeros(question.shape, np.float32)
    results = run_onnx(Path(question.path), model.SerializeToString(), question.input, question.values, inputs)
    return {name: result.shape for name, result in zip(question.values, results, strict=True)}


if __name__ == "__main__":
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=Question)
    sys.stdout.write(msgspec.json.encode(_answer(asked)).decode())
