"""The graph so far while an ONNX file is read: constants, and which part of which graph value each ONNX value is."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeAlias, final

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto
from onnx.reference import ReferenceEvaluator

from compile.graph import Node, Shape
from runtime.errors import UserError

Index: TypeAlias = "NDArray[np.int64]"
Reader: TypeAlias = "Callable[[Import, NodeProto], None]"


class View(msgspec.Struct, frozen=True):
    """A graph value under the shape that ONNX gives it.

    ``index`` has the ONNX value's shape without its batch, and says which element of the flattened ``(C, H, W)`` lies
    where. Reshape and Transpose change nothing else, so they are numpy's.
    """

    value: str
    index: Index


class Pending(ABC):
    """A value that is not in the graph yet, because what reads it may absorb it."""

    @abstractmethod
    def settle(self, state: Import) -> View:
        """Put it into the graph; a ``UserError`` if it is nothing that the graph has."""


@final
class Import:
    """What is known of a file's values while its nodes are read in order.

    ``batch_size`` is the target's, ``file_batch`` the file's own (``None``: dynamic); ``users`` counts who reads a
    value; ``shapes`` are the graph values', ``layers`` the names already given.
    """

    def __init__(self, opset: int, batch_size: int, file_batch: int | None, users: dict[str, int]) -> None:
        self.opset = opset
        self.batch_size = batch_size
        self.file_batch = file_batch
        self.users = users
        self.nodes: list[Node] = []
        self.shapes: dict[str, Shape] = {}
        self.constants: dict[str, NDArray[Any]] = {}
        self.values: dict[str, View | Pending] = {}
        self.layers: set[str] = set()

    def view(self, name: str) -> View:
        """The graph value that an ONNX value is, put into the graph if it was pending."""
        found = self.values.get(name)
        if found is None:
            what = "a constant" if name in self.constants else "not computed from the picture"
            raise UserError(f"value {name!r} is {what} where the native backend needs a map")
        if isinstance(found, Pending):
            found = found.settle(self)
            self.values[name] = found
        return found

    def map(self, node: NodeProto, name: str) -> str:
        """The graph value behind an ONNX value that must be a whole map ``(B, C, H, W)`` in this order."""
        view = self.view(name)
        if not self.in_order(view) or view.index.shape != self.shapes[view.value]:
            raise refusal(
                node,
                f"reads a value of shape (B, {', '.join(map(str, view.index.shape))}) that is no map (B, C, H, W) as "
                f"it was computed; st3 takes pictures with the channels first, and axes may be moved only to be moved "
                f"back",
            )
        return view.value

    def in_order(self, view: View) -> bool:
        """Whether a view has its value's elements in their own order."""
        size = int(np.prod(self.shapes[view.value]))
        return view.index.size == size and bool(np.array_equal(view.index.reshape(-1), np.arange(size)))

    def pixels(self, view: View, axis: int) -> Index | None:
        """Which pixel lies where along the other axes, if ``axis`` (batch not counted) runs through the channels."""
        channels, height, width = self.shapes[view.value]
        moved = np.moveaxis(view.index, axis, 0)
        if len(moved) != channels or moved[0].size != height * width:
            return None
        pixels: Index = moved[0]
        if not np.array_equal(np.sort(pixels, axis=None), np.arange(height * width)):
            return None
        return pixels if np.array_equal(moved, channels_of(pixels, channels)) else None

    def put(self, output: str, make: Callable[[str], Node], shape: Shape) -> str:
        """Append the node that ``make`` makes for a new value; returns the value's name."""
        value = _free(output, self.shapes)
        self.nodes.append(make(value))
        self.shapes[value] = shape
        return value

    def put_map(self, output: str, make: Callable[[str], Node], shape: Shape) -> None:
        """``put`` for an ONNX value that is the whole map."""
        if min(shape) < 1:
            raise UserError(f"value {output!r} would have shape {shape}; the picture is too small for this network")
        value = self.put(output, make, shape)
        self.values[output] = View(value, whole(shape))

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
        """A layer's name that no other layer has."""
        name = _free(name, self.layers)
        self.layers.add(name)
        return name


def whole(shape: tuple[int, ...]) -> Index:
    """The index of a value in its own order."""
    return np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)


def channels_of(pixels: Index, channels: int) -> Index:
    """``(channels, ...)``: the element of each channel at each of the ``pixels``."""
    steps = np.arange(channels, dtype=np.int64).reshape(-1, *(1 for _ in pixels.shape))
    return pixels + steps * pixels.size


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
    return UserError(f"node {node.name or node.output[0]!r} ({node.op_type}) {what}")


def _free(name: str, taken: dict[str, Shape] | set[str]) -> str:
    """A name for generated code and tables: plain characters, not taken."""
    plain = re.sub(r"[^\w.:/-]", "_", name) or "_"
    free, count = plain, 1
    while free in taken:
        count += 1
        free = f"{plain}.{count}"
    return free
