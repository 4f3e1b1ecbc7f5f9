"""From a checkpoint's exported program to a folded one for a fixed batch size, which every backend starts from."""

from __future__ import annotations

import msgspec
import torch
from torch import fx
from torch.export import ExportedProgram

from compile.passes.fold_batchnorm import fold_batchnorm
from compile.passes.fold_constants import fold_constants
from runtime.errors import UserError


class Captured(msgspec.Struct, frozen=True):
    """The network in inference form: batch normalisation folded, batch size fixed.

    ``program`` is what torch's and ONNX's exporters take, ``module`` the same graph with weights as attributes.
    ``input_shape`` is ``(B, C, H, W)``.
    """

    program: ExportedProgram
    module: fx.GraphModule
    input_shape: tuple[int, int, int, int]


def capture(program: ExportedProgram, shape: tuple[int, int, int], batch_size: int) -> Captured:
    """Fix the batch size of an exported program and fold its batch normalisations.

    Args:
        program: exported in eval mode, one picture tensor in, one tensor out.
        shape: ``(C, H, W)`` of a picture.
        batch_size: pictures per run.

    Raises:
        UserError: the program does not take such a batch, or was exported for pictures of any size.
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
    return Captured(fixed, fixed.module(check_guards=False), (batch_size, *shape))


def _refuse_dynamic_size(program: ExportedProgram) -> None:
    inputs = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    for node in inputs:
        for name, length in zip(("height", "width"), node.meta["val"].shape[2:], strict=False):
            if not isinstance(length, int):
                raise UserError(
                    f"the network was exported for pictures of any {name} ({length}), and st3 compiles for one size; "
                    f"export it with the batch as the only dynamic dimension"
                )
