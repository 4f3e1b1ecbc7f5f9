"""From a checkpoint's exported program to a folded one for a fixed batch size, which every backend starts from."""

from __future__ import annotations

import msgspec
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.utils._pytree import tree_unflatten

from compile.passes.fold_batchnorm import fold_batchnorm
from compile.passes.fold_constants import fold_constants
from runtime.errors import UserError
from st3.outputs import name_outputs


class Captured(msgspec.Struct, frozen=True):
    """The network in inference form: batch normalisation folded, batch size fixed.

    ``program`` is what torch's and ONNX's exporters take, ``module`` the same graph with weights as attributes.
    ``input_shape`` is ``(B, C, H, W)``. ``outputs`` are names in the order of the graph's results.
    """

    program: ExportedProgram
    module: fx.GraphModule
    input_shape: tuple[int, int, int, int]
    outputs: tuple[str, ...]


def capture(program: ExportedProgram, shape: tuple[int, int, int], batch_size: int) -> Captured:
    """Fix the batch size of an exported program and fold its batch normalisations.

    Args:
        program: exported in eval mode, one picture tensor in; one tensor out, or a dictionary or sequence of them.
        shape: ``(C, H, W)`` of a picture.
        batch_size: pictures per run.

    Raises:
        UserError: the program does not take such a batch, or was exported for pictures of any size, or two of its
            outputs have one name.
    """
    _refuse_dynamic_size(program)
    example = torch.zeros(batch_size, *shape)
    module = program.module(check_guards=False)
    fold_batchnorm(module)
    fold_constants(module)
    try:
        with torch.no_grad():
            fixed = torch.export.export(module, (example,))
    except Exception as error:  # the exporter raises many types; all mean that this graph cannot be specialised
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"the checkpoint's network cannot be fixed to a batch of {batch_size} pictures of shape {shape}: {first}; "
            f"a network for st3 takes one tensor (B, C, H, W) with a dynamic batch"
        ) from error
    outputs = tuple(name for name, _ in name_outputs(_answer(fixed)))
    return Captured(fixed, fixed.module(check_guards=False), (batch_size, *shape), outputs)


def _answer(program: ExportedProgram) -> object:
    """What the program returns, with the numbers of its results in the places of the tensors."""
    spec = program.call_spec.out_spec
    assert spec is not None
    return tree_unflatten(list(range(spec.num_leaves)), spec)


def check_outputs(captured: Captured, input_name: str) -> None:
    """Raise ``UserError`` unless every output is a float32 tensor that the network computes from each picture.

    Args:
        captured: the network.
        input_name: of the pictures, which no output may have.
    """
    (results,) = (node.args[0] for node in captured.module.graph.nodes if node.op == "output")
    assert isinstance(results, (tuple, list))
    for name, result in zip(captured.outputs, results, strict=True):
        reason = f"has the input's name, {input_name!r}" if name == input_name else _no_output(captured, result)
        if reason is not None:
            raise UserError(f"the network's output {name!r} {reason}; leave it out or give it another name")


def _no_output(captured: Captured, result: object) -> str | None:
    if not isinstance(result, fx.Node):
        return f"is {type(result).__name__}, not a tensor"
    if result.op == "placeholder":
        return "is the input itself"
    if result.op == "get_attr":
        return f"is the constant {result.target}, whatever the picture is"
    value, batch_size = result.meta["val"], captured.input_shape[0]
    if value.dtype != torch.float32:
        return f"is {str(value.dtype).removeprefix('torch.')}; an artifact's outputs are float32"
    if value.dim() < 2 or value.shape[0] != batch_size:
        return f"has the shape {tuple(value.shape)} for {batch_size} pictures; it must begin with the batch"
    return None


def _refuse_dynamic_size(program: ExportedProgram) -> None:
    inputs = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    for node in inputs:
        for name, length in zip(("height", "width"), node.meta["val"].shape[2:], strict=False):
            if not isinstance(length, int):
                raise UserError(
                    f"the network was exported for pictures of any {name} ({length}), and st3 compiles for one size; "
                    f"export it with the batch as the only dynamic dimension"
                )
