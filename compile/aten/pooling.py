"""Reads pooling: windows, adaptive windows, means."""

from __future__ import annotations

from torch import fx

from compile.aten.nodes import arguments, map_shape, pair
from compile.aten.state import Import, Reader
from compile.aten.views import axes, axis
from compile.graph import AdaptivePool, Mean, Pool, Shape
from runtime.errors import UserError

_Sides = tuple[int, int, int, int]


def max_pool(state: Import, node: fx.Node) -> None:
    """Any window, ``ceil_mode`` and dilation; of a result with indices the maximum alone."""
    source, kernel, stride, padding, dilation, ceil = arguments(node)
    del ceil  # the result's size says what it did
    window, steps, spread = pair(kernel), pair(stride) if stride else pair(kernel), pair(dilation)
    name, shape = state.map(node, source), map_shape(node)
    sides = _sides(state.shapes[name], shape, window, steps, pair(padding), spread)
    state.put(node, lambda output: Pool(output, name, True, window, steps, sides, spread), shape)


def average_pool(state: Import, node: fx.Node) -> None:
    """Any window, with or without its padding counted."""
    source, kernel, stride, padding, ceil, count_padding, divisor = arguments(node)
    del ceil
    if divisor is not None:
        raise UserError(f"node {node.name!r}: the native backend's average pooling has no divisor_override")
    window, steps, (down, across) = pair(kernel), pair(stride) if stride else pair(kernel), pair(padding)
    name, shape = state.map(node, source), map_shape(node)
    sides = _sides(state.shapes[name], shape, window, steps, (down, across), (1, 1))
    plain: _Sides = (down, across, down, across)
    counted: _Sides | None = plain if count_padding else (0, 0, 0, 0)
    if counted == sides:
        counted = None  # every window is counted whole
    state.put(node, lambda output: Pool(output, name, False, window, steps, sides, counted=counted), shape)


def _sides(
    size: Shape,
    result: Shape,
    window: tuple[int, int],
    steps: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> _Sides:
    """The padding below and to the right is at least what the last window, which ``ceil_mode`` adds, reads of it."""
    reach = [
        (result[i + 1] - 1) * steps[i] + dilation[i] * (window[i] - 1) + 1 - size[i + 1] - padding[i] for i in (0, 1)
    ]
    return padding[0], padding[1], max(padding[0], reach[0]), max(padding[1], reach[1])


def adaptive_pool(maximum: bool) -> Reader:
    """Windows that cover the map: the mean of all, nothing at all, equal windows, or unequal ones."""

    def read(state: Import, node: fx.Node) -> None:
        name, shape = state.map(node, node.args[0]), map_shape(node)
        _, height, width = state.shapes[name]
        _, rows, columns = shape
        if (rows, columns) == (height, width):
            state.show(node, name, state.view(node.args[0]).dims)
        elif (rows, columns) == (1, 1) and not maximum:
            state.put(node, lambda output: Mean(output, name), shape)
        elif height % rows == 0 and width % columns == 0 and (rows, columns) != (1, 1):
            window = (height // rows, width // columns)
            state.put(node, lambda output: Pool(output, name, maximum, window, window, (0, 0, 0, 0)), shape)
        else:
            state.put(node, lambda output: AdaptivePool(output, name, maximum, rows, columns), shape)

    return read


def mean(state: Import, node: fx.Node) -> None:
    """The mean of all pixels, or over dimensions of length 1, which is nothing."""
    source, dimensions, keep, _ = arguments(node)
    view = state.view(source)
    shape = state.shapes[view.name]
    gone = {int(number) % len(view.dims) for number in dimensions or range(len(view.dims))}
    averaged = axes(tuple(view.dims[number] for number in sorted(gone)))
    if averaged and sorted(averaged) != [*axis(shape, 2), *axis(shape, 3)]:
        raise UserError(
            f"node {node.name!r} averages over dimensions {dimensions}; the native backend has the mean of all pixels, "
            f"dimensions (2, 3) of a map"
        )
    dims = tuple(() if number in gone else dim for number, dim in enumerate(view.dims) if keep or number not in gone)
    if averaged:
        state.put(node, lambda output: Mean(output, view.name), (shape[0], 1, 1), dims)
    else:
        state.show(node, view.name, dims)
