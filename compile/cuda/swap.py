"""Torch's exported program with its layers swapped: linear layers and convolutions with constant weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, fx, nn

from compile.cuda.problem import DTYPES, ConvProblem
from compile.cuda.results import Shapes, as_answer
from compile.cuda.sites import Site
from compile.passes.fold_batchnorm import tensor_of
from runtime.cuda.replay import tensors_of
from st3.layers import layer_name

_aten = torch.ops.aten
_RELU = (_aten.relu.default, _aten.relu_.default)
_CHECKS = (_aten._assert_tensor_metadata.default,)  # of dtypes that are another's now


def program_sites(module: fx.GraphModule, dtype: str) -> dict[str, Site]:
    """The layers of a program by their nodes' names; its nodes know the shapes of the batch that it was made for."""
    found = {}
    for node in module.graph.nodes:
        site = _linear(module, node, dtype) if node.target is _aten.linear.default else _conv(module, node, dtype)
        if site is not None:
            found[node.name] = site
    return found


def _linear(module: fx.GraphModule, node: fx.Node, dtype: str) -> Site | None:
    weight, bias = _constant(module, node, 1), _constant(module, node, 2)
    if weight is None:
        return None
    *rows, channels = _shape(node.args[0])
    problem = ConvProblem(
        batch=math.prod(rows),
        channels=channels,
        height=1,
        width=1,
        outputs=len(weight),
        activation="relu" if _relu(node) else "identity",
        dtype=dtype,
    )
    return _site(node, weight[:, :, None, None], bias, problem)


def _conv(module: fx.GraphModule, node: fx.Node, dtype: str) -> Site | None:
    if node.target is not _aten.conv2d.default:
        return None
    weight, bias = _constant(module, node, 1), _constant(module, node, 2)
    if weight is None:
        return None
    given, usual = node.args[3:], ([1], [0], [1], 1)
    stride, padding, dilation, groups = given + usual[len(given) :]
    batch, channels, height, width = _shape(node.args[0])
    problem = ConvProblem(
        batch=batch,
        channels=channels,
        height=height,
        width=width,
        outputs=len(weight),
        kernel=(weight.shape[2], weight.shape[3]),
        stride=_pair(stride),
        padding=_pair(padding),
        dilation=_pair(dilation),
        groups=int(groups),  # type: ignore[arg-type]
        activation="relu" if _relu(node) else "identity",
        dtype=dtype,
    )
    return _site(node, weight, bias, problem)


def _site(node: fx.Node, weight: Tensor, bias: Tensor | None, problem: ConvProblem) -> Site:
    owner = node.args[1]
    assert isinstance(owner, fx.Node)
    added = torch.zeros(len(weight)) if bias is None else bias.to(torch.float32)
    return Site(node.name, layer_name(str(owner.target)), weight.to(torch.float32), added, problem)


def _constant(module: fx.GraphModule, node: fx.Node, index: int) -> Tensor | None:
    argument = node.args[index] if len(node.args) > index else None
    constant = isinstance(argument, fx.Node) and argument.op == "get_attr"
    found = tensor_of(module, argument) if constant else None
    return None if found is None else found.cpu()


def _shape(node: object) -> list[int]:
    assert isinstance(node, fx.Node)
    return [int(length) for length in node.meta["val"].shape]


def _pair(value: Any) -> tuple[int, int]:
    numbers = list(value) if isinstance(value, (list, tuple)) else [value]
    return int(numbers[0]), int(numbers[-1])


def _relu(node: fx.Node) -> fx.Node | None:
    """The ReLU that alone reads a layer."""
    user = next(iter(node.users), None)
    return user if len(node.users) == 1 and user is not None and user.target in _RELU else None


@final
class SwappedNetwork(nn.Module):
    """``forward(x)``: float32 ``(B, C, H, W)`` in, float32 of ``output_shapes`` out; computes in ``dtype``."""

    def __init__(
        self, module: fx.GraphModule, layers: Mapping[str, nn.Module], dtype: str, output_shapes: Shapes
    ) -> None:
        super().__init__()
        self.dtype, self.output_shapes = DTYPES[dtype], output_shapes
        # the layers are in it already, but for what a format keeps in float32
        self.body = swap_layers(copy.deepcopy(module).to(self.dtype), layers)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """See the class."""
        return as_answer(tensors_of(self.body(x.to(self.dtype))), self.output_shapes)


def swap_layers(made: fx.GraphModule, layers: Mapping[str, nn.Module]) -> fx.GraphModule:
    """Put modules in the places of a program's layers, in place, and drop the weights that nothing reads any more."""
    made.add_module("st3_layers", nn.Module())
    for node in list(made.graph.nodes):
        if node.op == "call_function" and node.target in _CHECKS:
            made.graph.erase_node(node)
        elif node.name in layers:
            _swap(made, node, layers[node.name])
    made.graph.eliminate_dead_code()
    made.delete_all_unused_submodules()
    for name in [name for name, _ in (*made.named_parameters(), *made.named_buffers()) if not _read(made, name)]:
        owner, _, leaf = name.rpartition(".")
        delattr(made.get_submodule(owner), leaf)
    made.recompile()
    return made


def _swap(module: fx.GraphModule, node: fx.Node, layer: nn.Module) -> None:
    name = f"st3_layers.{node.name}"
    is_linear = node.target is _aten.linear.default
    module.add_submodule(name, _Rows(layer) if is_linear else _Map(layer))
    with module.graph.inserting_before(node):
        call = module.graph.call_module(name, (node.args[0],))
    call.meta = dict(node.meta)
    relu = _relu(node)
    for old in (node,) if relu is None else (relu, node):
        old.replace_all_uses_with(call)
        module.graph.erase_node(old)


def _read(module: fx.GraphModule, name: str) -> bool:
    """Whether a weight is still used: by the program itself, or because it is a swapped layer's."""
    return name.startswith("st3_layers.") or any(
        node.op == "get_attr" and node.target == name for node in module.graph.nodes
    )


@final
class _Rows(nn.Module):
    """A layer over the last dimension."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        rows: Tensor = self.layer(x.reshape(-1, x.shape[-1])[:, :, None, None])
        return rows.reshape(*x.shape[:-1], -1)


@final
class _Map(nn.Module):
    """A layer over a map, which it takes channels last."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x.contiguous(memory_format=torch.channels_last))
        return y
