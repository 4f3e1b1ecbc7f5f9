"""The same for torch's own program, which has more operators: orders the features between two linear layers."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from compile.passes.fold_batchnorm import tensor_of
from compile.passes.fours import order_for
from st3.layers import layer_name

_aten = torch.ops.aten
_LINEAR = _aten.linear.default
_POINTWISE = frozenset(
    {
        _aten.clone.default,
        _aten.dropout.default,
        _aten.gelu.default,
        _aten.hardswish.default,
        _aten.hardswish_.default,
        _aten.relu.default,
        _aten.relu_.default,
        _aten.silu.default,
        _aten.silu_.default,
    }
)


def order_hidden(module: fx.GraphModule) -> frozenset[str]:
    """Rewrite a program in place: its weights get new parameters where that makes the second layer 2:4.

    Returns:
        The layers that gained, by name.
    """
    gained = set()
    for node in module.graph.nodes:
        first = _feeds(module, node) if node.target is _LINEAR else None
        if first is not None and _order(module, first, node):
            gained.add(layer_name(str(node.args[1].target)))
    return frozenset(gained)


def _feeds(module: fx.GraphModule, second: fx.Node) -> fx.Node | None:
    """The linear layer whose features this one alone reads, through pointwise functions at most."""
    node = second.args[0]
    while isinstance(node, fx.Node) and node.target in _POINTWISE and len(node.users) == 1:
        node = node.args[0]
    if not isinstance(node, fx.Node) or node.target is not _LINEAR or len(node.users) != 1:
        return None
    owned = _own(module, second, 1) is not None and _own(module, node, 1) is not None
    return node if owned and (len(node.args) < 3 or node.args[2] is None or _own(module, node, 2) is not None) else None


def _own(module: fx.GraphModule, node: fx.Node, index: int) -> Tensor | None:
    """A constant that nothing else reads."""
    argument = node.args[index]
    if not isinstance(argument, fx.Node) or argument.op != "get_attr" or len(argument.users) != 1:
        return None
    elsewhere = [n for n in module.graph.nodes if n.op == "get_attr" and n.target == argument.target]
    return tensor_of(module, argument) if len(elsewhere) == 1 else None


def _order(module: fx.GraphModule, first: fx.Node, second: fx.Node) -> bool:
    weight = tensor_of(module, second.args[1])
    assert weight is not None
    found = order_for((weight != 0).cpu().numpy())
    if found is None:
        return False
    order = torch.from_numpy(found).to(weight.device)
    _put(module, second.args[1], weight[:, order])
    for argument in first.args[1:]:
        value = tensor_of(module, argument)
        if value is not None:
            _put(module, argument, value[order.to(value.device)])
    return True


def _put(module: fx.GraphModule, node: object, value: Tensor) -> None:
    assert isinstance(node, fx.Node)
    owner, _, leaf = str(node.target).rpartition(".")
    setattr(module.get_submodule(owner), leaf, nn.Parameter(value.contiguous(), requires_grad=False))
