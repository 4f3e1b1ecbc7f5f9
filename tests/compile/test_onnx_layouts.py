"""Layers and shapes in ONNX files whose axes move, and random networks of everything, on the level of the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import OPSETS, SPELLINGS, Builder, activation, agree, batch_norm

from compile.graph import Concat, Conv, Elementwise, LayerNorm, Mean

opsets = st.sampled_from(OPSETS)
quick = settings(max_examples=40)


@pytest.mark.parametrize("opset", OPSETS)
def test_global_pooling_in_all_its_spellings(tmp_path: Path, opset: int) -> None:
    build = Builder(opset)
    parts = [
        build.node("GlobalAveragePool", "x"),
        build.axes("ReduceMean", "x", [2, 3]),
        build.axes("ReduceMean", "x", [-1, -2], keepdims=1),
        build.node("GlobalMaxPool", "x"),
        build.node("Unsqueeze", build.axes("ReduceMean", "x", [2, 3], keepdims=0), build.shape(2, 3)),
    ]
    rows = build.node("Reshape", "x", build.shape(0, 3, -1))
    parts.append(build.node("Unsqueeze", build.axes("ReduceMean", rows, [2]), build.shape(3)))
    moved = build.node("Transpose", "x", perm=[0, 2, 3, 1])
    parts.append(build.node("Transpose", build.axes("ReduceMean", moved, [1, 2]), perm=[0, 3, 1, 2]))
    graph = agree(build.model(build.node("Concat", *parts, axis=1)), tmp_path / "m.onnx")
    assert [type(node) for node in graph.nodes].count(Mean) == 6


@quick
@given(st.integers(0, 3), st.booleans(), opsets)
def test_linear_layers(tmp_path: Path, spelling: int, moved: bool, opset: int) -> None:
    build = Builder(opset)
    source = build.node("Relu", "x")
    if moved:
        source = build.node("Transpose", source, perm=[0, 2, 3, 1])
    flat = build.node("Flatten", source) if spelling % 2 else build.node("Reshape", source, build.shape(0, -1))
    if spelling == 0:
        value = build.node("Gemm", flat, build.normal(5, 189), build.normal(5), transB=1, alpha=0.5, beta=2.0)
    elif spelling == 1:
        value = build.node("Gemm", flat, build.normal(189, 5), build.normal(1))
    elif spelling == 2:
        value = build.node("Add", build.node("MatMul", flat, build.normal(189, 5)), build.normal(5))
    else:
        value = build.node("Gemm", flat, build.normal(189, 5))
    value = build.node("Gemm", build.node("Relu", value), build.normal(4, 5), build.normal(4), transB=1)
    graph = agree(build.model(value), tmp_path / "m.onnx")
    layers = [node for node in graph.nodes if isinstance(node, Conv)]
    assert [node.op for node in layers] == ["linear", "linear"]
    assert layers[0].weight.shape == (5, 3, 9, 7)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("decomposed", [False, True])
def test_layer_norm_and_linear_over_channels_last(tmp_path: Path, opset: int, decomposed: bool) -> None:
    build = Builder(opset)
    last = build.node("Transpose", build.conv("x", 3, 6), perm=[0, 2, 3, 1])
    if decomposed or opset < 17:
        centred = build.node("Sub", last, build.axes("ReduceMean", last, [-1]))
        square = build.node("Mul", centred, centred) if decomposed else build.node("Pow", centred, build.constant(2.0))
        variance = build.node("Add", build.axes("ReduceMean", square, [-1]), build.constant(1e-5))
        normal = build.node("Div", centred, build.node("Sqrt", variance))
        normal = build.node("Add", build.node("Mul", normal, build.normal(6)), build.normal(6))
    else:
        normal = build.node("LayerNormalization", last, build.normal(6), build.normal(6), axis=-1)
    wide = build.node("Add", build.node("MatMul", normal, build.normal(6, 8)), build.normal(8))
    narrow = build.node("MatMul", build.node("Relu", wide), build.normal(8, 6))
    back = build.node(
        "Mul", build.constant(np.full((6, 1, 1), 0.1)), build.node("Transpose", narrow, perm=[0, 3, 1, 2])
    )
    graph = agree(build.model(build.node("Add", back, build.conv("x", 3, 6))), tmp_path / "m.onnx")
    assert [type(node) for node in graph.nodes] == [Conv, LayerNorm, Conv, Elementwise, Conv, Conv, Elementwise]
    assert [node.op for node in graph.nodes if isinstance(node, Conv)] == ["conv2d", "linear", "linear", "conv2d"]


@pytest.mark.parametrize("last", [False, True])
def test_concatenation(tmp_path: Path, last: bool) -> None:
    build = Builder()
    parts = [build.conv("x", 3, 4), "x", build.node("Relu", build.conv("x", 3, 2))]
    if last:
        parts = [build.node("Transpose", part, perm=[0, 2, 3, 1]) for part in parts]
    value = build.node("Concat", *parts, axis=-1 if last else 1)
    if last:
        value = build.node("Transpose", value, perm=[0, 3, 1, 2])
    graph = agree(build.model(value), tmp_path / "m.onnx")
    assert isinstance(graph.nodes[-1], Concat)
    assert graph.shapes[graph.output] == (9, 9, 7)


@quick
@given(st.lists(st.integers(0, 6), max_size=6), opsets)
def test_shapes_that_only_regroup(tmp_path: Path, steps: list[int], opset: int) -> None:
    build = Builder(opset)
    value = build.node("GlobalAveragePool", build.conv("x", 3, 12))
    rank = 4
    for step in steps:
        if step == 0 and rank == 4:
            value, rank = build.node("Squeeze", value, build.shape(2, -1)), 2
        elif step == 1 and rank == 2:
            value, rank = build.node("Unsqueeze", value, build.shape(-1, 2)), 4
        elif step == 2:
            value, rank = build.node("Reshape", value, build.shape(-1, 3, 2, 2)), 4
            value = build.node("Reshape", value, build.shape(0, 12, 1, 1))
        elif step == 3:
            value, rank = build.node("Flatten", value), 2
        elif step == 4:
            sizes = build.node("Shape", value)
            first = build.node("Gather", sizes, build.constant([0], np.int64))
            value, rank = build.node("Reshape", value, build.node("Concat", first, build.shape(-1), axis=0)), 2
        elif step == 5:
            value = build.node("Dropout", build.node("Identity", build.node("Cast", value, to=1)))
        elif rank == 4:
            value = build.node("Transpose", value, perm=[0, 3, 1, 2])
            value = build.node("Transpose", value, perm=[0, 2, 3, 1])
    value = build.node("Gemm", build.node("Flatten", value), build.normal(5, 12), transB=1)
    graph = agree(build.model(value), tmp_path / "m.onnx")
    assert [type(node) for node in graph.nodes] == [Conv, Mean, Conv]


@quick
@given(st.integers(0, 10_000), opsets, st.sampled_from([1, 2, 3]))
def test_random_networks(tmp_path: Path, seed: int, opset: int, batch_size: int) -> None:
    build = Builder(opset, seed)
    random = build.random
    width = 4
    maps = [build.conv("x", 3, width)]
    for _ in range(int(random.integers(3, 9))):
        source = maps[int(random.integers(max(0, len(maps) - 3), len(maps)))]
        step = int(random.integers(7))
        if step == 0:
            source = build.conv(source, width, width, int(random.choice([1, 3])), group=int(random.choice([1, 4])))
        elif step == 1:
            source = batch_norm(build, source, width)
        elif step == 2:
            source = activation(build, str(random.choice(list(SPELLINGS))), source)
        elif step == 3:
            source = build.node("Add", source, maps[-1])
        elif step == 4:
            squeezed = build.conv(build.axes("ReduceMean", source, [2, 3]), width, width, 1)
            source = build.node("Mul", source, build.node("Sigmoid", squeezed))
        elif step == 5:
            source = build.node("MaxPool", source, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        else:
            source = build.conv(build.node("Concat", source, maps[0], axis=1), 2 * width, width, 1)
        maps.append(source)
    value = build.node("Flatten", build.node("GlobalAveragePool", maps[-1]))
    value = build.node("Gemm", value, build.normal(5, width), build.normal(5), transB=1)
    agree(build.model(value, ("N", 3, 6, 5)), tmp_path / "m.onnx", batch_size)
