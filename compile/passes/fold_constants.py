"""Computes once what an exported module computes from its weights alone, such as a frozen batch norm's factors."""

from __future__ import annotations

import operator
from typing import TypeAlias

import torch
from torch import Tensor, fx, nn

from compile.passes.fold_batchnorm import tensor_of
from st3.layers import layer_name

_Values: TypeAlias = dict[fx.Node, Tensor | list[Tensor] | tuple[Tensor, ...]]


def fold_constants(module: fx.GraphModule) -> int:
    """Rewrite an exported module in place: such a node becomes a buffer of the layer whose weight it first read.

    Nothing is done where a constant is written over: what is a view of what is not followed here.

    Returns:
        How many nodes were folded.
    """
    values: _Values = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            value = tensor_of(module, node)
            assert value is not None
            values[node] = value
        elif _writes(node) and node.args[0] in values:
            return 0
        elif _foldable(node) and all(source in values for source in node.all_input_nodes):
            result = _compute(node, values)
            if isinstance(result, Tensor | list | tuple):
                values[node] = result
    wanted = {
        node: value
        for node, value in values.items()
        if isinstance(value, Tensor) and node.op != "get_attr" and any(user not in values for user in node.users)
    }
    for number, (node, value) in enumerate(wanted.items()):
        owner, name = _owner(module, node), f"folded_{number}"
        module.get_submodule(owner).register_buffer(name, value.detach().clone())
        with module.graph.inserting_before(node):
            folded = module.graph.get_attr(f"{owner}.{name}" if owner else name)
        folded.meta.update(node.meta)
        node.replace_all_uses_with(folded)
    module.graph.eliminate_dead_code()
    module.recompile()
    return len(wanted)


def _foldable(node: fx.Node) -> bool:
    """Whether a node computes with what the module holds, and always the same; one that only passes on is left."""
    if node.op != "call_function" or not node.all_input_nodes:
        return False
    if node.target is operator.getitem:  # one of the parts that a weight was cut into
        return True
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    return not node.target._schema.is_mutable and torch.Tag.nondeterministic_seeded not in node.target.tags


def _writes(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable and bool(node.args)


@torch.no_grad()
def _compute(node: fx.Node, values: _Values) -> object:
    assert callable(node.target)
    arguments, named = fx.node.map_aggregate(
        (node.args, node.kwargs), lambda leaf: values[leaf] if isinstance(leaf, fx.Node) else leaf
    )
    result: object = node.target(*arguments, **named)
    return result


def _owner(module: fx.GraphModule, node: fx.Node) -> str:
    """The layer whose weight a node is made of, of several the first; one that is no module becomes one."""
    while node.op != "get_attr":
        node = node.all_input_nodes[0]
    owner = layer_name(str(node.target))
    if owner not in dict(module.named_modules()):
        module.add_submodule(owner, nn.Module())
    return owner
