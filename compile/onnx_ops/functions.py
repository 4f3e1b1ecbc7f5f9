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
from numpy.typing import NDArray
from onnx import NodeProto

from compile.graph import ACTIVATIONS, Activation, Conv, Elementwise
from compile.onnx_ops.state import Import, Pending, Reader, View, attribute, refusal

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


_OF_TWO_MAPS = ("Add", "Sub", "Mul")


def apply(node: NodeProto, inputs: list[Samples | None]) -> Samples:
    """What a node makes of sampled inputs, in float64."""
    given = {name: attribute(node, name, default) for name, default in _ATTRIBUTES.get(node.op_type, {}).items()}
    with np.errstate(all="ignore"):
        return np.asarray(_FUNCTIONS[node.op_type](*inputs, **given), np.float64)


@final
class Function(Pending):
    """``samples`` ``(1 or C, points)``: what became of ``GRID`` in ``base``, channel by channel, up to ``node``."""

    def __init__(self, node: NodeProto, base: View, samples: Samples) -> None:
        self.node = node
        self.base = base
        self.samples = samples

    def known(self, state: Import) -> View | None:
        """The graph value, if the whole function is an activation or a straight line."""
        line = straight_line(self.samples)
        if line is not None:
            return put_affine(state, self.node.output[0], self.base, *line)
        kind = activation(self.samples)
        if kind is None:
            return None
        base, shape = self.base.value, state.shapes[self.base.value]
        value = state.put(self.node.output[0], lambda name: Elementwise(name, base, None, activation=kind), shape)
        return View(value, self.base.index)

    def settle(self, state: Import) -> View:
        """The whole function at once, or else its last node alone, on what the nodes before it made."""
        found = self.known(state)
        if found is not None:
            return found
        pictures = _pictures(state, self.node)
        if len(pictures) == 2:
            return _two_maps(state, self.node)
        view = state.view(pictures[0])
        alone = Function(self.node, view, _sample(state, self.node, view, {pictures[0]: GRID[None]})).known(state)
        if alone is None:
            raise refusal(
                self.node,
                f"makes a function of a map that is none of {', '.join(ACTIVATIONS[1:])} nor a scale and a shift, "
                f"which is what the native backend has; use one of these",
            )
        return alone


def straight_line(samples: Samples) -> tuple[Samples, Samples] | None:
    """Scale and shift ``(1 or C,)`` of ``scale * x + shift``, or ``None``."""
    with np.errstate(all="ignore"):
        scale = (samples[:, -1] - samples[:, 0]) / (GRID[-1] - GRID[0])
        shift = samples[:, _ZERO]
        difference = np.abs(samples - (scale[:, None] * GRID + shift[:, None]))
        size = np.abs(scale)[:, None] * np.abs(GRID) + np.abs(shift)[:, None]
    return (scale, shift) if bool((difference <= _STRAIGHT * size).all()) else None


def activation(samples: Samples) -> Activation | None:
    """Which of the graph's activations the samples are."""
    with np.errstate(all="ignore"):
        for kind, function in _KNOWN.items():
            wanted = function(GRID)
            if bool((np.abs(samples - wanted) <= _ALIKE * (1.0 + np.abs(wanted))).all()):
                return kind
    return None


def put_affine(state: Import, output: str, base: View, scale: Samples, shift: Samples) -> View:
    """``scale * base + shift`` per channel: a 1x1 convolution of each channel, which a pass folds where it can."""
    if bool((scale == 1).all() and (shift == 0).all()):
        return base
    shape = state.shapes[base.value]
    channels = shape[0]
    weight = np.broadcast_to(scale, (channels,)).astype(np.float32).reshape(-1, 1, 1, 1)
    bias = np.broadcast_to(shift, (channels,)).astype(np.float32)
    layer = state.new_layer(output)
    value = state.put(
        output, lambda name: Conv(name, base.value, layer, "affine", weight, bias, groups=channels), shape
    )
    return View(value, base.index)


def per_channel(state: Import, view: View, constant: NDArray[Any]) -> Samples | None:
    """A constant that a map meets, as ``()`` or ``(C, 1)``; ``None`` if it differs between pixels or pictures."""
    values = np.asarray(constant, np.float64)
    if values.size == 1:
        return values.reshape(())
    rank = view.index.ndim + 1
    if values.ndim > rank or (values.ndim == rank and len(values) != 1):
        return None
    values = values[0] if values.ndim == rank else values
    try:
        full = np.broadcast_to(values, view.index.shape)
    except ValueError:
        return None
    channels, height, width = state.shapes[view.value]
    which = view.index // (height * width)
    found = np.zeros(channels)
    found[which] = full
    return found[:, None] if np.array_equal(found[which], full) else None


def _sample(state: Import, node: NodeProto, view: View, known: dict[str, Samples]) -> Samples:
    inputs: list[Samples | None] = []
    for name in node.input:
        if not name or name in known:
            inputs.append(known.get(name))
            continue
        value = per_channel(state, view, state.constants[name])
        if value is None:
            raise refusal(
                node,
                f"combines a map with the constant {name!r} {state.constants[name].shape}, which is neither one number "
                f"nor one per channel; the native backend has no such operation",
            )
        inputs.append(value)
    return apply(node, inputs)


def _operand(state: Import, name: str) -> View | Function:
    """A function so far, or a graph value; a function that several nodes read starts a new one if it can."""
    found = state.values.get(name)
    if isinstance(found, Function) and (state.users[name] == 1 or not _settles(state, name)):
        return found
    return state.view(name)


def _settles(state: Import, name: str) -> bool:
    """Whether ``view`` would succeed, nothing put into the graph."""
    found = state.values.get(name)
    if not isinstance(found, Function) or _is_known(found.samples):
        return True
    pictures = _pictures(state, found.node)
    if not all(_settles(state, picture) for picture in pictures):
        return False
    if len(pictures) == 2:
        return found.node.op_type in _OF_TWO_MAPS
    return _is_known(_sample(state, found.node, found.base, {pictures[0]: GRID[None]}))


def _is_known(samples: Samples) -> bool:
    return straight_line(samples) is not None or activation(samples) is not None


def _pictures(state: Import, node: NodeProto) -> list[str]:
    return [name for name in node.input if name and name not in state.constants]


def _read(state: Import, node: NodeProto) -> None:
    operands = {name: _operand(state, name) for name in sorted(set(_pictures(state, node)))}
    bases = [found.base if isinstance(found, Function) else found for found in operands.values()]
    output = node.output[0]
    first = bases[0]
    if any(base.value != first.value or not np.array_equal(base.index, first.index) for base in bases):
        state.values[output] = _two_maps(state, node)
        return
    samples = {name: found.samples if isinstance(found, Function) else GRID[None] for name, found in operands.items()}
    function = Function(node, first, _sample(state, node, first, samples))
    # no activation has numbers of its own for each channel: such a scale or bias is the map that one is made of
    view = function.known(state) if len(function.samples) > 1 else None
    state.values[output] = view or function


def _two_maps(state: Import, node: NodeProto) -> View:
    """Sum, difference or product of two maps, the second one perhaps one number per channel."""
    if node.op_type not in _OF_TWO_MAPS:
        raise refusal(node, "combines maps, for which the native backend has addition, subtraction, multiplication")
    left, right = state.view(node.input[0]), state.view(node.input[1])
    output = node.output[0]
    if node.op_type == "Sub":
        right = put_affine(state, f"{output}.negative", right, np.array([-1.0]), np.array([0.0]))
    if left.index.size < right.index.size:
        left, right = right, left
    if not _fits(state, left, right):
        raise refusal(
            node,
            f"combines maps of shapes (B, {', '.join(map(str, left.index.shape))}) and "
            f"(B, {', '.join(map(str, right.index.shape))}); the native backend needs equal shapes and axes, or one "
            f"value per channel",
        )
    shape = state.shapes[left.value]
    value = state.put(
        output,
        lambda name: Elementwise(name, left.value, right.value, "multiply" if node.op_type == "Mul" else "add"),
        shape,
    )
    return View(value, left.index)


def _fits(state: Import, left: View, right: View) -> bool:
    """Whether the graph's element-wise node does what ONNX's broadcasting asks for."""
    (channels, height, width), other = state.shapes[left.value], state.shapes[right.value]
    if left.index.ndim != right.index.ndim:
        return False
    if other == (channels, height, width):
        return bool(np.array_equal(left.index, right.index))
    if other != (channels, 1, 1) or any(
        a not in (b, 1) for a, b in zip(right.index.shape, left.index.shape, strict=True)
    ):
        return False
    return bool(np.array_equal(np.broadcast_to(right.index, left.index.shape), left.index // (height * width)))


READERS: dict[str, Reader] = dict.fromkeys(_FUNCTIONS, _read)
