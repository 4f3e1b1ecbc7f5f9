"""Computes what a network makes of its weights alone: relative positions, masks of shifted windows."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from compile.aten.nodes import size_of
from compile.aten.state import Import
from runtime.errors import UserError


def constant(state: Import, node: fx.Node) -> bool:
    """Compute a torch node that does not depend on the picture, as torch does; whether it is one.

    Raises:
        UserError: it writes over a weight of the network's.
    """
    if node in state.constants:
        return True
    name = str(node.target).partition(".")[2]
    shape_only = name.startswith("new_") or name.partition(".")[0].endswith("_like")
    if not shape_only and not all(source in state.constants for source in node.all_input_nodes):
        return False
    if not isinstance(node.target, torch._ops.OpOverload) or any(
        not isinstance(result.type, torch.TensorType) for result in node.target._schema.returns
    ):
        return False
    if node.target._schema.is_mutable and _is_weight(state, state.constants[node.all_input_nodes[0]]):
        raise UserError(f"node {node.name!r} ({node.target}) writes over a weight; the native backend keeps weights")
    args, kwargs = fx.node.map_arg(
        (node.args, node.kwargs),
        lambda source: (
            state.constants[source] if source in state.constants else torch.zeros(()).expand(size_of(source))
        ),
    )
    with torch.no_grad():
        state.constants[node] = node.target(*args, **kwargs)
    return True


def _is_weight(state: Import, tensor: Tensor) -> bool:
    memory = tensor.untyped_storage().data_ptr()
    return any(
        held.untyped_storage().data_ptr() == memory for node, held in state.constants.items() if node.op == "get_attr"
    )
