"""A network as torch exported it, written as ONNX by torch's exporter."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import torch
from onnx import GraphProto, ModelProto
from torch.export import ExportedProgram

from runtime.errors import UserError


def export_onnx(program: ExportedProgram, input_name: str, output_names: Sequence[str]) -> ModelProto:
    """The model, weights inside.

    Raises:
        UserError: an operator has no ONNX form.
    """
    talk = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(talk), contextlib.redirect_stderr(talk):
            warnings.simplefilter("ignore")  # the exporter warns of its own internals, which no user can change
            made = torch.onnx.export(
                program, input_names=[input_name], output_names=list(output_names), dynamo=True, verbose=False
            )
    except torch.onnx.errors.OnnxExporterError as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"the network cannot be written as ONNX: {first}; use another backend") from error
    assert made is not None
    model: ModelProto = made.model_proto
    _forget_origin(model)
    return model


def _forget_origin(model: ModelProto) -> None:
    """Remove what the exporter notes of where each node was written: stack traces with the paths of its author."""
    for function in model.functions:
        _clear(chain(function.node, function.value_info, [function]))
    graph: GraphProto = model.graph
    _clear(chain(graph.node, graph.value_info, graph.input, graph.output, graph.initializer, [graph]))


def _clear(parts: Iterable[Any]) -> None:
    for part in parts:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
