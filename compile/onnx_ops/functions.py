"""Element-wise ONNX operators, and the activation or the scale and shift that a chain of them makes.

Exporters spell one activation in many ways (GELU alone: an operator, five nodes with ``Erf``, eight with ``Tanh``). So
a chain of element-wise nodes is kept as the values that it has on a grid of points, and compared with the activations
of the graph when something reads it. A chain that is a straight line is a scale and a shift.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias, final

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import NodeProto
from torch import fx

from compile.graph import ACTIVATIONS, Activation
from compile.onnx_ops.attention import are_lengths, at_least
from compile.onnx_ops.state import Pending, Reader, Translation, attribute, refusal

aten = torch.ops.aten

Samples: TypeAlias = "NDArray[np.float64]"

_SPAN = 12.0
_FAR = np.geomspace(2 * _SPAN, 1e30, 30)
GRID: Samples = np.concatenate([-_FAR[::-1], np.linspace(-_SPAN, _SPAN, 193), _FAR])
"""Ends, middle and kinks of every activation; the far points tell a bound of 100 from none."""
_ZERO = len(GRID) // 2
# the files' constants are float32, whose 1 / sqrt(2) is off by 2e-8
_ALIKE = 1e-6
_STRAIGHT = 1e-9

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: Samples) -> Samples:
    return np.asarray(1.0 / (1.0 + np.exp(-x)))


def _hardsigmoid(x: Samples, alpha: float = 1 / 6, beta: float = 0.5) -> Samples:
    return np.asarray(np.clip(alpha * x + beta, 0.0, 1.0))


def _gelu(x: Samples, approximate: str = "none") -> Samples:
    if approximate == "tanh":
        return np.asarray(0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))))
    return np.asarray(0.5 * x * (1.0 + _erf(x / math.sqrt(2.0))))


def _clip(x: Samples, low: Any = None, high: Any = None) -> Samples:
    return np.asarray(np.clip(x, -np.inf if low is None else low, np.inf if high is None else high))


_KNOWN: dict[Activation, Callable[[Samples], Samples]] = {
    "relu": lambda x: np.maximum(x, 0.0),
    "relu6": lambda x: np.clip(x, 0.0, 6.0),
    "silu": lambda x: x * _sigmoid(x),
    "hardswish": lambda x: x * _hardsigmoid(x),
    "sigmoid": _sigmoid,
    "hardsigmoid": _hardsigmoid,
    "gelu": _gelu,
    "gelu_tanh": lambda x: _gelu(x, "tanh"),
    "tanh": np.tanh,
}

_TORCH: dict[Activation, Callable[..., Any]] = {
    "relu": aten.relu.default,
    "relu6": aten.relu6.default,
    "silu": aten.silu.default,
    "hardswish": aten.hardswish.default,
    "sigmoid": aten.sigmoid.default,
    "hardsigmoid": aten.hardsigmoid.default,
    "gelu": aten.gelu.default,
    "gelu_tanh": aten.gelu.default,
    "tanh": aten.tanh.default,
}

_FUNCTIONS: dict[str, Callable[..., Samples]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Neg": np.negative,
    "Reciprocal": np.reciprocal,
    "Exp": np.exp,
    "Erf": _erf,
    "Tanh": np.tanh,
    "Max": lambda *values: np.asarray(np.maximum.reduce(np.broadcast_arrays(*values))),
    "Min": lambda *values: np.asarray(np.minimum.reduce(np.broadcast_arrays(*values))),
    "Relu": _KNOWN["relu"],
    "Clip": _clip,
    "Sigmoid": _sigmoid,
    "HardSigmoid": _hardsigmoid,
    "HardSwish": _KNOWN["hardswish"],
    "Gelu": _gelu,
}
# ONNX's own defaults where they are not torch's
_ATTRIBUTES: dict[str, dict[str, Any]] = {
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "Gelu": {"approximate": "none"},
}


_OF_TWO_MAPS: dict[str, Callable[..., Any]] = {
    "Add": aten.add.Tensor,
    "Sub": aten.sub.Tensor,
    "Mul": aten.mul.Tensor,
    "Div": aten.div.Tensor,
}


def apply(node: NodeProto, inputs: list[Samples | None]) -> Samples:
    """What a node makes of sampled inputs, in float64."""
    given = {name: attribute(node, name, default) for name, default in _ATTRIBUTES.get(node.op_type, {}).items()}
    with np.errstate(all="ignore"):
        return np.asarray(_FUNCTIONS[node.op_type](*inputs, **given), np.float64)


@final
class Function(Pending):
    """``samples`` ``(points,)``: what became of ``GRID`` in ``base`` up to ``node``."""

    def __init__(self, node: NodeProto, base: fx.Node, samples: Samples) -> None:
        self.node = node
        self.base = base
        self.samples = samples

    def known(self, state: Translation) -> fx.Node | None:
        """The torch node, if the whole function is an activation or a straight line."""
        output, line = self.node.output[0], straight_line(self.samples)
        if line is not None:
            scaled = self.base if line[0] == 1 else state.emit(output, aten.mul.Tensor, self.base, line[0])
            return scaled if line[1] == 0 else state.emit(output, aten.add.Tensor, scaled, line[1])
        kind = activation(self.samples)
        if kind is None:
            return None
        named = {"approximate": "tanh"} if kind == "gelu_tanh" else {}
        return state.emit(output, _TORCH[kind], self.base, **named)

    def settle(self, state: Translation) -> fx.Node:
        """The whole function at once, or else its last node alone, on what the nodes before it made."""
        found = self.known(state)
        if found is not None:
            return found
        pictures = _pictures(state, self.node)
        if len(pictures) == 2:
            return _two_maps(state, self.node)
        base = state.value(pictures[0])
        alone = Function(self.node, base, _sample(state, self.node, {pictures[0]: GRID})).known(state)
        if alone is None:
            raise refusal(
                self.node,
                f"makes a function of a map that is none of {', '.join(ACTIVATIONS[1:])} nor a scale and a shift, "
                f"which is what the native backend has; use one of these",
            )
        return alone

    def size(self) -> list[int]:
        """See ``Pending``."""
        return list(self.base.meta["val"].shape)


def straight_line(samples: Samples) -> tuple[float, float] | None:
    """Scale and shift of ``scale * x + shift``, or ``None``."""
    with np.errstate(all="ignore"):
        scale = float((samples[-1] - samples[0]) / (GRID[-1] - GRID[0]))
        shift = float(samples[_ZERO])
        difference = np.abs(samples - (scale * GRID + shift))
        size = abs(scale) * np.abs(GRID) + abs(shift)
    return (scale, shift) if bool((difference <= _STRAIGHT * size).all()) else None


def activation(samples: Samples) -> Activation | None:
    """Which of the graph's activations the samples are."""
    with np.errstate(all="ignore"):
        for kind, function in _KNOWN.items():
            wanted = function(GRID)
            if bool((np.abs(samples - wanted) <= _ALIKE * (1.0 + np.abs(wanted))).all()):
                return kind
    return None


def _number(state: Translation, name: str, size: list[int]) -> Samples | None:
    """A constant that is one number wherever it meets a value of that size."""
    values = np.asarray(state.constants[name], np.float64)
    fits = all(a in (1, b) for a, b in zip(values.shape[::-1], size[::-1], strict=False))
    if values.size == 0 or values.ndim > len(size) or not fits:
        return None
    first = values.reshape(-1)[0]
    return np.asarray(first) if bool((values == first).all()) else None


def _sample(state: Translation, node: NodeProto, known: dict[str, Samples]) -> Samples:
    """What a node makes of one picture's samples and of numbers."""
    inputs: list[Samples | None] = []
    size = state.size(next(iter(known)))
    for name in node.input:
        if not name or name in known:
            inputs.append(known.get(name))
            continue
        value = _number(state, name, size)
        if value is None:
            raise refusal(
                node,
                f"combines a map {size} with the constant {name!r} {state.constants[name].shape}, which is not one "
                f"number; the native backend has no such operation",
            )
        inputs.append(value)
    return apply(node, inputs)


def _operand(state: Translation, name: str) -> fx.Node | Function:
    """A function so far, or a torch node; a function that several nodes read starts a new one if it can."""
    found = state.values.get(name)
    if isinstance(found, Function) and (state.users[name] == 1 or not _settles(state, name)):
        return found
    return state.value(name)


def _settles(state: Translation, name: str) -> bool:
    """Whether ``value`` would succeed, nothing put into the graph."""
    found = state.values.get(name)
    if not isinstance(found, Function) or _is_known(found.samples):
        return True
    pictures = _pictures(state, found.node)
    if not all(_settles(state, picture) for picture in pictures):
        return False
    if len(pictures) == 2:
        return found.node.op_type in _OF_TWO_MAPS
    return _is_known(_sample(state, found.node, {pictures[0]: GRID}))


def _is_known(samples: Samples) -> bool:
    return straight_line(samples) is not None or activation(samples) is not None


def _pictures(state: Translation, node: NodeProto) -> list[str]:
    return [name for name in node.input if name and name not in state.constants]


def _read(state: Translation, node: NodeProto) -> None:
    names = sorted(set(_pictures(state, node)))
    operands = {name: _operand(state, name) for name in names}
    bases = [found.base if isinstance(found, Function) else found for found in operands.values()]
    output, first = node.output[0], bases[0]
    if any(base is not first for base in bases):
        state.values[output] = _two_maps(state, node)
    elif node.op_type in _OF_TWO_MAPS and len(names) == 1 and _numbers(state, node):
        state.values[output] = _with_constant(state, node)
    elif node.op_type in ("Clip", "Max") and are_lengths(first):
        at_least(state, node, first)
    else:
        samples = {name: found.samples if isinstance(found, Function) else GRID for name, found in operands.items()}
        state.values[output] = Function(node, first, _sample(state, node, samples))


def _numbers(state: Translation, node: NodeProto) -> bool:
    """Whether a map meets a constant of several numbers."""
    size = state.size(_pictures(state, node)[0])
    return any(name in state.constants and _number(state, name, size) is None for name in node.input)


def _with_constant(state: Translation, node: NodeProto) -> fx.Node:
    """A map and a constant with a number for each channel, or pixel, or pair of tokens."""
    left, right = node.input
    if node.op_type == "Div" and right in state.constants:
        with np.errstate(all="ignore"):
            inverse = np.asarray(1 / state.constants[right].astype(np.float64), np.float32)
        held = state.held(inverse, f"{node.output[0]}.inverse")
        return state.emit(node.output[0], aten.mul.Tensor, state.value(left), held)
    return _two_maps(state, node)


def _two_maps(state: Translation, node: NodeProto) -> fx.Node:
    """Sum, difference or product of two maps, the second one perhaps one number per channel."""
    if node.op_type not in _OF_TWO_MAPS:
        raise refusal(node, "combines maps, for which the native backend has addition, subtraction, multiplication")
    left, right = (state.operand(name) for name in node.input)
    if node.op_type == "Div" and not are_lengths(right):
        raise refusal(node, "combines maps, for which the native backend has addition, subtraction, multiplication")
    return state.emit(node.output[0], _OF_TWO_MAPS[node.op_type], left, right)


READERS: dict[str, Reader] = dict.fromkeys(_FUNCTIONS, _read)
