"""An exported program in fp16 between float32 ends, for what reads torch's graph and not ours."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from typing import Any, final

import torch
from numpy.typing import NDArray
from onnx import ModelProto
from onnx.numpy_helper import to_array
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_map

from compile.export_onnx import export_onnx
from compile.half import LARGEST
from compile.passes.order_hidden import order_hidden
from runtime.errors import UserError
from st3.layers import layer_name


@final
class _Half(nn.Module):
    """Casts at both ends."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, picture: Tensor) -> object:
        return tree_map(lambda output: output.float(), self.body(picture.half()))


def half_program(program: ExportedProgram, shape: tuple[int, int, int, int]) -> tuple[ExportedProgram, frozenset[str]]:
    """The program with fp16 weights (exact +0.0 zeros) for pictures ``(B, C, H, W)`` of float32.

    Returns:
        It, and the layers that are 2:4 because the features before them were put in another order.

    Raises:
        UserError: a weight is too large for fp16, or the program cannot be exported again with fp16 inside.
    """
    body = copy.deepcopy(program.module(check_guards=False))  # the network goes on answering in float32
    with torch.no_grad():
        for name, tensor in (*body.named_parameters(), *body.named_buffers()):
            if tensor.is_floating_point():
                if tensor.numel() and not float(tensor.abs().max()) <= LARGEST:
                    raise UserError(
                        f"{name} holds {float(tensor.abs().max()):g}, which does not fit fp16 (largest {LARGEST:g}); "
                        f"use a backend that computes in float32"
                    )
                tensor.data = tensor.data.half()
                tensor.data[tensor.data == 0] = 0.0
    ordered = order_hidden(body)
    try:
        with torch.no_grad():
            return torch.export.export(_Half(body), (torch.zeros(shape),)), ordered
    except Exception as error:  # the exporter raises many types; all mean that something in it insists on float32
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"the network cannot be exported in fp16: {first}; use a backend that computes in float32"
        ) from error


def half_onnx(program: ExportedProgram, input_name: str, output_names: Sequence[str]) -> ModelProto:
    """Write a program of ``half_program`` as ONNX; each layer's node takes the name of its module.

    Raises:
        UserError: an operator has no ONNX form.
    """
    model = export_onnx(program, input_name, output_names)
    _name_layers(model, program)
    return model


def _name_layers(model: ModelProto, program: ExportedProgram) -> None:
    """Name the nodes that read a layer's weight, perhaps through a transpose, as the layer table names the layer.

    The exporter transposes the matrix of a linear layer over tokens and forgets its name; such a one is known by its
    values.
    """
    turned = {
        _digest(tensor.detach().cpu().T.numpy()): name
        for name, tensor in program.state_dict.items()
        if tensor.dim() == 2
    }
    owner = {}
    for tensor in model.graph.initializer:
        known = tensor.name.endswith("weight")
        name = tensor.name if known else turned.get(_digest(to_array(tensor))) if len(tensor.dims) == 2 else None
        if name is not None:
            owner[tensor.name] = layer_name(name.removeprefix("body."))
    seen: set[str] = set()
    for node in model.graph.node:
        source = next((owner[name] for name in node.input if name in owner), None)
        if source is None:
            continue
        if node.op_type in ("Transpose", "Identity", "Cast"):
            owner[node.output[0]] = source
        elif node.op_type in ("Conv", "Gemm", "MatMul") and source not in seen:
            node.name = source
            seen.add(source)


def _digest(matrix: NDArray[Any]) -> tuple[tuple[int, ...], str, bytes]:
    return matrix.shape, matrix.dtype.str, hashlib.sha256(matrix.tobytes()).digest()
