"""What a sliding window needs of its input: the geometry in which every tap is an aligned load, and the halo."""

from __future__ import annotations

import msgspec

from compile.graph import Conv, Pool
from compile.native.geometry import Geometry


class Window(msgspec.Struct, frozen=True):
    """Input geometry, halo ``(top, left, bottom, right)``, value outside the picture, and how taps lie in it.

    The tap ``(r, s)`` of output position ``(h, w)`` is the vector at
    ``(h * stride - padding + r * dilation, w * stride - padding + s * dilation)`` of the input tensor.
    ``step`` is the distance in source pixels between the tensor's pixels: 2 where a 1x1 window with stride 2 reads a
    tensor that was subsampled on the way in. ``clean``: positions that hold no pixel of their own are read.
    """

    geometry: Geometry
    halo: tuple[int, int, int, int]
    fill: float
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    clean: bool
    step: tuple[int, int] = (1, 1)


def strided_window(node: Conv | Pool, output: Geometry, size: tuple[int, int]) -> Window:
    """The window that steps over the input itself, which is ``size`` pixels; ``output`` is the result's geometry."""
    kernel = kernel_of(node)
    rows, columns = output.rows * node.stride[0], output.columns * node.stride[1]
    if output.lane_channels > 1:
        rows, columns = size
    geometry = msgspec.structs.replace(output, rows=rows, columns=columns, height=size[0], width=size[1])
    top, left = node.padding[:2]
    reach_down = (output.rows - 1) * node.stride[0] - top + (kernel[0] - 1) * node.dilation[0]
    reach_right = (output.columns - 1) * node.stride[1] - left + (kernel[1] - 1) * node.dilation[1]
    halo = (top, left, max(0, reach_down - rows + 1), max(0, reach_right - columns + 1))
    clean = any(halo) or any(node.padding)
    return Window(geometry, halo, _fill(node), node.stride, (top, left), node.dilation, clean)


def subsampled_window(node: Conv | Pool, output: Geometry) -> Window | None:
    """For a 1x1 kernel: a window of stride 1 over an input of which only the pixels in use were brought along."""
    if kernel_of(node) != (1, 1) or any(node.padding):
        return None
    return Window(output, (0, 0, 0, 0), _fill(node), (1, 1), (0, 0), (1, 1), clean=False, step=node.stride)


def kernel_of(node: Conv | Pool) -> tuple[int, int]:
    """Rows and columns of the window."""
    return (node.weight.shape[2], node.weight.shape[3]) if isinstance(node, Conv) else node.kernel


def _fill(node: Conv | Pool) -> float:
    return float("-inf") if isinstance(node, Pool) and node.maximum else 0.0
