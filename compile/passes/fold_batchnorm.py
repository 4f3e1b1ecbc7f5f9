"""Folds each batch normalisation into the convolution before it, so that it costs nothing and zeros stay zeros."""

from __future__ import annotations

import torch
from torch import fx
from torch.nn.utils.fusion import fuse_conv_bn_weights

_CONVOLUTIONS = (torch.ops.aten.conv2d.default, torch.ops.aten.conv2d.padding)


def fold_batchnorm(module: fx.GraphModule) -> int:
    """Rewrite an exported module in place.

    A batch normalisation that does not directly follow a convolution of its own is left where it is.

    Returns:
        How many were folded.
    """
    folded = 0
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node.target is not torch.ops.aten.batch_norm.default:
            continue
        conv = node.args[0]
        if not _foldable(conv):
            continue
        _fold(module, conv, node)
        folded += 1
    module.graph.eliminate_dead_code()
    module.recompile()
    return folded


def tensor_of(module: fx.GraphModule, node: object) -> torch.Tensor | None:
    """The parameter or buffer that a ``get_attr`` node reads."""
    if not isinstance(node, fx.Node):
        return None
    value: object = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    assert isinstance(value, torch.Tensor), f"{node.target} is {type(value)}"
    return value.detach()


def _foldable(conv: object) -> bool:
    return (
        isinstance(conv, fx.Node)
        and conv.target in _CONVOLUTIONS
        and len(conv.users) == 1
        and isinstance(conv.args[1], fx.Node)
        and len(conv.args[1].users) == 1
    )


def _fold(module: fx.GraphModule, conv: fx.Node, norm: fx.Node) -> None:
    epsilon = norm.args[7]
    assert isinstance(epsilon, float)
    scale, shift, mean, variance = (tensor_of(module, argument) for argument in norm.args[1:5])
    weight_node = conv.args[1]
    assert isinstance(weight_node, fx.Node)
    weight = tensor_of(module, weight_node)
    bias_node = conv.args[2] if len(conv.args) > 2 else None
    bias = tensor_of(module, bias_node)
    assert weight is not None
    assert mean is not None
    assert variance is not None
    fused_weight, fused_bias = fuse_conv_bn_weights(weight, bias, mean, variance, epsilon, scale, shift)
    # adding +0 turns the -0 that a negative scale makes of a zero into +0: builders test weights for exact zeros
    owner, _, leaf = str(weight_node.target).rpartition(".")
    parent = module.get_submodule(owner)
    setattr(parent, leaf, torch.nn.Parameter(fused_weight.detach() + 0.0, requires_grad=False))
    bias_leaf = "bias" if leaf == "weight" else f"{leaf}_bias"
    setattr(parent, bias_leaf, torch.nn.Parameter(fused_bias.detach(), requires_grad=False))
    with module.graph.inserting_before(conv):
        new_bias = module.graph.get_attr(f"{owner}.{bias_leaf}" if owner else bias_leaf)
    arguments = list(conv.args) + [None] * max(0, 3 - len(conv.args))
    arguments[2] = new_bias
    conv.args = tuple(arguments)
    norm.replace_all_uses_with(conv)
    module.graph.erase_node(norm)
