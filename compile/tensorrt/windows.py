"""Pooling windows in the ONNX operators that TensorRT reads; where no operator has them, from slices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compile.graph import AdaptivePool, Pool, Shape

if TYPE_CHECKING:
    from compile.tensorrt.half_onnx import HalfWriter


def pool(writer: HalfWriter, node: Pool) -> None:
    """Max or average over a window of fixed size.

    An average that counts part of its padding pads its picture by that part first, and counts none of the rest.
    """
    shared = {"kernel_shape": list(node.kernel), "strides": list(node.stride)}
    dilations = {"dilations": list(node.dilation)} if node.dilation != (1, 1) else {}
    if node.maximum:
        writer.node("MaxPool", [node.input], node.output, node.output, pads=list(node.padding), **shared, **dilations)
        return
    source, padding = node.input, node.padding
    if node.counted is not None and any(node.counted):
        source = _padded(writer, node, node.counted)
        top, left, bottom, right = (whole - part for whole, part in zip(node.padding, node.counted, strict=True))
        padding = (top, left, bottom, right)
    writer.node(
        "AveragePool",
        [source],
        node.output,
        node.output,
        pads=list(padding),
        count_include_pad=int(node.counted is None),
        **shared,
        **dilations,
    )


def _padded(writer: HalfWriter, node: Pool, padding: tuple[int, int, int, int]) -> str:
    top, left, bottom, right = padding
    sizes = writer.integers(0, 0, top, left, 0, 0, bottom, right)
    made = f"{node.output}/padded"
    return writer.node("Pad", [node.input, sizes, writer.half("zero", 0.0)], made, made)


def adaptive_pool(writer: HalfWriter, node: AdaptivePool, shape: Shape) -> None:
    """Windows of one size where they divide the map; otherwise each band of rows, then of columns, by itself.

    A window is a rectangle, so its mean is the mean over its columns of the means over its rows, and so is its maximum.
    """
    _, height, width = shape
    if height % node.rows == 0 and width % node.columns == 0:
        kernel = [height // node.rows, width // node.columns]
        op = "MaxPool" if node.maximum else "AveragePool"
        writer.node(op, [node.input], node.output, node.output, kernel_shape=kernel, strides=kernel)
        return
    rows = _bands(writer, node, node.input, f"{node.output}/rows", axis=2, length=height, count=node.rows)
    _bands(writer, node, rows, node.output, axis=3, length=width, count=node.columns)


def _bands(writer: HalfWriter, node: AdaptivePool, source: str, output: str, axis: int, length: int, count: int) -> str:
    op = "ReduceMax" if node.maximum else "ReduceMean"
    bands = []
    for index in range(count):
        name = f"{output}/{axis}/{index}"
        bounds = index * length // count, -(-(index + 1) * length // count)
        limits = [writer.integers(bound) for bound in (*bounds, axis)]
        band = writer.node("Slice", [source, *limits], f"{name}/slice", f"{name}/slice")
        bands.append(writer.node(op, [band, writer.integers(axis)], name, name, keepdims=1))
    return writer.node("Concat", bands, output, output, axis=axis)
