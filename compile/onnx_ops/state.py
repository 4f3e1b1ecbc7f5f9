"""An ONNX file on its way to torch's operators: constants, and which torch node each ONNX value is.

What the graph has of an operator is known in ``compile.aten``. So an ONNX node becomes the torch nodes that compute
the same, each with a tensor of its shape (torch's ``meta`` device works them out), and those are read like any others.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeAlias, final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import NodeProto
from onnx.reference import ReferenceEvaluator
from torch import Tensor, fx

from runtime.errors import UserError

Reader: TypeAlias = "Callable[[Translation, NodeProto], None]"
aten = torch.ops.aten

_MOST_NUMBERS: dict[object, int] = {
    aten.expand.default: 2**26,
    aten.repeat.default: 2**26,
    aten.constant_pad_nd.default: 2**26,
    aten.index_select.default: 2**26,
    aten.index.Tensor: 2**26,
}
"""Of a value that an operator makes larger at little cost to the file; the compiler keeps 8 bytes for each."""
_MOST = 2**30
"""Of any other value, which a few bytes of the file can make as large, too: the padding of a convolution."""


@final
class TooLargeError(UserError):
    """A file asks for more memory than a compiler should take, whichever backend it is for."""


class Pending(ABC):
    """A value that is no torch node yet, because what reads it may absorb it."""

    @abstractmethod
    def settle(self, state: Translation) -> fx.Node:
        """The torch node; a ``UserError`` if the value is nothing that the graph has."""

    @abstractmethod
    def size(self) -> list[int]:
        """The value's shape, batch included."""


@final
class Translation:
    """What is known of a file's values while its nodes are read in order.

    ``batch`` is the file's own, or the target's where it is dynamic; ``users`` counts who reads a value; ``weights``
    are what the torch nodes ``get_attr`` are; ``origins`` say which ONNX node a torch node comes from, by its name.
    """

    def __init__(self, opset: int, users: dict[str, int]) -> None:
        self.opset = opset
        self.users = users
        self.graph = fx.Graph()
        self.constants: dict[str, NDArray[Any]] = {}
        self.values: dict[str, fx.Node | Pending] = {}
        self.weights: dict[fx.Node, Tensor] = {}
        self.origins: dict[str, str] = {}
        self.reading: NodeProto | None = None
        self._layers: set[str] = set()
        self._operands: dict[int, tuple[NDArray[Any], fx.Node]] = {}

    def input(self, name: str, shape: tuple[int, ...]) -> None:
        """The pictures ``(B, C, H, W)``."""
        self.values[name] = _sized(self.graph.create_node("placeholder", name, name=_plain(name)), shape)

    def value(self, name: str) -> fx.Node:
        """The torch node that an ONNX value is."""
        found = self.values.get(name)
        if found is None:
            what = "a constant" if name in self.constants else "not computed from the picture"
            raise UserError(f"value {name!r} is {what} where the native backend needs a map")
        if isinstance(found, Pending):
            found = found.settle(self)
            self.values[name] = found
        return found

    def size(self, name: str) -> list[int]:
        """A value's shape, batch included."""
        found = self.values.get(name)
        return found.size() if isinstance(found, Pending) else list(self.value(name).meta["val"].shape)

    def operand(self, name: str) -> fx.Node:
        """A value, or a constant, as a torch node."""
        return self.held(self.constants[name], name) if name in self.constants else self.value(name)

    def emit(self, output: str, target: Callable[..., Any], *args: Any, **named: Any) -> fx.Node:
        """Append a torch node.

        Args:
            output: the ONNX value that it is, or is on the way to.
            target: torch's operator, or a function like one.
            args: its arguments, torch nodes among them.
            named: those that torch takes by name alone.

        Raises:
            UserError: the operator does not take tensors of these shapes.
        """
        given = fx.node.map_arg(args, lambda node: node.meta["val"])
        try:
            result = target(*given, **named)
        except (RuntimeError, IndexError, ValueError) as error:
            assert self.reading is not None
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise refusal(self.reading, f"does not fit the shapes that it is given: {first}") from error
        shape = result.shape if isinstance(result, Tensor) else (1,)
        most = _MOST_NUMBERS.get(target, _MOST)
        if math.prod(shape) > most:
            raise TooLargeError(
                f"value {output!r} would have shape {tuple(shape)}, more than {most} numbers; "
                f"give a smaller --batch-size, or the network for smaller pictures"
            )
        if math.prod(shape) == 0:
            raise UserError(
                f"value {output!r} would have shape {tuple(shape)}; the picture is too small for this network"
            )
        made = self.graph.create_node("call_function", target, args, named, name=_plain(output))
        made.meta["val"] = result
        if self.reading is not None:
            self.origins[made.name] = _named(self.reading)
        return made

    def put(self, node: NodeProto, target: Callable[..., Any], *args: object) -> None:
        """``emit`` for the torch node that an ONNX node's first output is."""
        self.values[node.output[0]] = self.emit(node.output[0], target, *args)

    def held(self, array: NDArray[Any], layer: str) -> fx.Node:
        """A constant as a torch node, which belongs to ``layer``; one array is one node."""
        known = self._operands.get(id(array))
        if known is not None and known[0] is array:
            return known[1]
        node = self.graph.create_node("get_attr", f"{layer}.weight", name=f"{_plain(layer)}_weight")
        value = torch.from_numpy(np.require(array, requirements=["C", "W"])).reshape(array.shape)
        self.weights[node] = value
        self._operands[id(array)] = array, node
        return _sized(node, array.shape, value.dtype)

    def constant(self, node: NodeProto, position: int, what: str) -> NDArray[Any] | None:
        """An input that must be known when compiling, or ``None`` where the node has no such input."""
        name = node.input[position] if position < len(node.input) else ""
        if name and name not in self.constants:
            raise refusal(node, f"has {what} {name!r} computed at run time; st3 needs it as a constant of the file")
        return self.constants[name] if name else None

    def weight(self, node: NodeProto, position: int, what: str) -> NDArray[np.float32] | None:
        """A constant as ``float32``, every zero of it +0: builders test weights for exact zeros."""
        found = self.constant(node, position, what)
        return None if found is None else np.ascontiguousarray(np.asarray(found, np.float32) + np.float32(0))

    def layer_name(self, node: NodeProto) -> str:
        """The module's name where the exporter kept it (``NAME.weight``), else the node's."""
        weight = node.input[1]
        return self.new_layer(weight[: -len(".weight")] if weight.endswith(".weight") else node.name or node.output[0])

    def new_layer(self, name: str) -> str:
        """A layer's name for generated code and tables, which no other layer has: plain characters."""
        plain = re.sub(r"[^\w.:/-]", "_", name) or "_"
        free, count = plain, 1
        while free in self._layers:
            count += 1
            free = f"{plain}.{count}"
        self._layers.add(free)
        return free


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """A node's attribute, strings decoded."""
    for entry in node.attribute:
        if entry.name == name:
            value = onnx.helper.get_attribute_value(entry)
            return value.decode() if isinstance(value, bytes) else value
    return default


def evaluate(node: NodeProto, constants: dict[str, NDArray[Any]], opset: int) -> dict[str, NDArray[Any]]:
    """Compute a node whose inputs are all constants."""
    try:
        evaluator = ReferenceEvaluator(node, opsets={"": opset})
        results = evaluator.run(None, {name: constants[name] for name in node.input if name})
    except Exception as error:  # the reference implementation raises whatever numpy raised
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise refusal(node, f"computes a constant that cannot be computed: {first}") from error
    return {name: np.asarray(result) for name, result in zip(node.output, results, strict=False) if name}


def refusal(node: NodeProto, what: str) -> UserError:
    """The error that names a node, its operator and what is wrong with it."""
    return UserError(f"{_named(node)} {what}")


def _named(node: NodeProto) -> str:
    return f"node {node.name or node.output[0]!r} ({node.op_type})"


def _sized(node: fx.Node, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> fx.Node:
    node.meta["val"] = torch.empty(shape, dtype=dtype, device="meta")
    return node


def _plain(name: str) -> str:
    """A torch node's name, which torch makes unique."""
    return re.sub(r"\W", "_", name) or "_"
