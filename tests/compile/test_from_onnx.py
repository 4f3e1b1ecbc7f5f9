"""What the reader of ONNX files makes of each operator, against ONNX Runtime, on the level of the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from onnx_models import OPSETS, SPELLINGS, Builder, activation, agree, batch_norm

from compile.graph import Conv, Elementwise, Move, Pool

opsets = st.sampled_from(OPSETS)
quick = settings(max_examples=40)


@quick
@given(st.data(), opsets)
def test_convolutions(tmp_path: Path, data: st.DataObject, opset: int) -> None:
    draw = data.draw
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 4))
    kernel = [draw(st.integers(1, 4)), draw(st.integers(1, 3))]
    attributes: dict[str, object] = {
        "group": groups,
        "strides": [draw(st.integers(1, 3)), draw(st.integers(1, 2))],
        "dilations": [draw(st.integers(1, 2)), draw(st.integers(1, 2))],
    }
    padding = draw(st.sampled_from(["pads", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if padding == "pads":
        attributes["pads"] = [draw(st.integers(0, 3)) for _ in range(4)]
    else:
        attributes["auto_pad"] = padding
    if padding.startswith("SAME"):
        attributes["dilations"] = [1, 1]  # ONNX Runtime refuses them together
    build = Builder(opset)
    weights = [build.normal(outputs, inputs // groups, *kernel)]
    weights += [build.normal(outputs)] if draw(st.booleans()) else []
    shape = ("N", inputs, draw(st.integers(8, 13)), draw(st.integers(6, 11)))
    graph = agree(build.model(build.node("Conv", "x", *weights, **attributes), shape), tmp_path / "m.onnx")
    assert len(graph.nodes) == 1


def test_weights_stored_as_sparse_tensors(tmp_path: Path) -> None:
    build = Builder()
    value = build.node("Relu", build.conv(build.conv("x", 3, 4), 4, 5))
    model = build.model(value)
    expected = agree(model, tmp_path / "m.onnx")
    for number, tensor in enumerate([t for t in model.graph.initializer if len(t.dims) == 4]):
        weight = numpy_helper.to_array(tensor)
        places = np.flatnonzero(weight)
        # one flat index per value, or its coordinates
        where = np.stack(np.unravel_index(places, weight.shape), 1) if number else places
        values = numpy_helper.from_array(weight.reshape(-1)[places], tensor.name)
        indices = numpy_helper.from_array(where.astype(np.int64), "indices")
        model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, weight.shape))
        model.graph.initializer.remove(tensor)
    graph = agree(model, tmp_path / "m.onnx")
    for one, other in zip(graph.nodes, expected.nodes, strict=True):
        assert not isinstance(one, Conv) or np.array_equal(one.weight, other.weight)


OLD_RUNTIME = tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 30)


@quick
@given(st.data(), opsets, st.sampled_from(["MaxPool", "AveragePool"]))
def test_pooling(tmp_path: Path, data: st.DataObject, opset: int, op: str) -> None:
    draw = data.draw
    kernel = [draw(st.integers(1, 4)), draw(st.integers(1, 3))]
    attributes: dict[str, object] = {
        "kernel_shape": kernel,
        "strides": [draw(st.integers(1, 3)), draw(st.integers(1, 3))],
        "pads": [draw(st.integers(0, size - 1)) for size in kernel * 2],
    }
    attributes["ceil_mode"] = draw(st.integers(0, 1))
    if op == "AveragePool":
        attributes["count_include_pad"] = draw(st.integers(0, 1))
    if op == "MaxPool" or opset >= 19:
        attributes["dilations"] = [draw(st.integers(1, 2)), draw(st.integers(1, 2))]
    if opset >= 19 and OLD_RUNTIME and attributes.get("count_include_pad"):
        attributes["count_include_pad"] = 0  # it leaves padding behind the last row out of the count
    if draw(st.booleans()):
        del attributes["pads"]
        attributes |= {"auto_pad": draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"])), "ceil_mode": 0}
        attributes.pop("dilations", None)
        attributes["strides"] = [draw(st.integers(1, size)) for size in kernel]  # ONNX Runtime refuses longer ones
    build = Builder(opset)
    shape = ("N", 2, draw(st.integers(7, 12)), draw(st.integers(7, 12)))
    graph = agree(build.model(build.node(op, "x", **attributes), shape), tmp_path / "m.onnx")
    assert isinstance(graph.nodes[0], Pool)


@pytest.mark.parametrize("kind", SPELLINGS)
@pytest.mark.parametrize("before", ["input", "conv", "norm"])
def test_activations_are_recognised_however_they_are_spelled(tmp_path: Path, kind: str, before: str) -> None:
    build = Builder(13)
    source = "x" if before == "input" else build.conv("x", 3, 5)
    if before == "norm":
        source = batch_norm(build, source, 5)
    graph = agree(build.model(activation(build, kind, source)), tmp_path / "m.onnx")
    last = graph.nodes[-1]
    assert isinstance(last, Elementwise)
    assert (last.activation, last.right) == (SPELLINGS[kind], None)
    assert len(graph.nodes) == 1 + (before != "input")


@pytest.mark.parametrize(("approximate", "kind"), [("none", "gelu"), ("tanh", "gelu_tanh")])
def test_operators_of_later_opsets(tmp_path: Path, approximate: str, kind: str) -> None:
    build = Builder(20)
    swish = build.node("HardSwish", build.conv("x", 3, 4))
    graph = agree(
        build.model(build.node("Gelu", build.conv(swish, 4, 4), approximate=approximate)), tmp_path / "m.onnx"
    )
    assert [node.activation for node in graph.nodes if isinstance(node, Elementwise)] == ["hardswish", kind]


@quick
@given(st.lists(st.sampled_from(["norm", "Add", "Mul", "Sub", "Div", "from", "Neg"]), min_size=1, max_size=5), opsets)
def test_scales_and_shifts_are_folded_into_the_convolution_before(
    tmp_path: Path, operations: list[str], opset: int
) -> None:
    build = Builder(opset, seed=len(operations))
    value = build.conv("x", 3, 4)
    for index, op in enumerate(operations):
        sizes = [(), (1,), (4, 1, 1), (1, 4, 1, 1)][index % 4]
        constant = build.constant(build.random.uniform(0.5, 2.0, sizes))
        if op == "norm":
            value = batch_norm(build, value, 4)
        elif op == "Neg":
            value = build.node("Neg", value)
        elif op == "from":
            value = build.node("Sub", constant, value)
        else:
            value = build.node(op, value, constant)
    graph = agree(build.model(value), tmp_path / "m.onnx")
    (conv,) = graph.nodes
    assert isinstance(conv, Conv)
    zeros = build.weights["c0"] == 0
    assert np.array_equal(conv.weight == 0, zeros)
    assert not np.signbit(conv.weight[zeros]).any()


def test_a_scale_that_others_also_read_past_is_a_convolution_of_its_own(tmp_path: Path) -> None:
    build = Builder()
    conv = build.conv("x", 3, 4)
    value = build.node("Concat", batch_norm(build, conv, 4), conv, axis=1)
    graph = agree(build.model(value), tmp_path / "m.onnx")
    assert [node.op for node in graph.nodes if isinstance(node, Conv)] == ["conv2d", "affine"]
    pooled = Builder()
    graph = agree(
        pooled.model(batch_norm(pooled, pooled.node("MaxPool", "x", kernel_shape=[2, 2]), 3)), tmp_path / "m.onnx"
    )
    assert [type(node) for node in graph.nodes] == [Pool, Conv]


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul"])
def test_two_maps(tmp_path: Path, op: str) -> None:
    build = Builder()
    left, right = build.conv("x", 3, 4), build.conv("x", 3, 4)
    gate = build.node("Sigmoid", build.conv(build.node("GlobalAveragePool", left), 4, 4, 1))
    same = build.node(op, left, right)
    value = build.node(op, gate, build.node(op, same, same)) if op != "Sub" else build.node(op, same, left)
    if op == "Sub":
        value = build.node(op, build.node("Relu", value), gate)
    agree(build.model(value), tmp_path / "m.onnx")


@pytest.mark.parametrize("opset", OPSETS)
def test_padding_goes_into_what_follows(tmp_path: Path, opset: int) -> None:
    build = Builder(opset)
    pads = build.shape(0, 0, 1, 2, 0, 0, 3, 0)
    conv = build.conv(build.node("Pad", "x", pads), 3, 4, pads=[1, 1, 0, 0])
    around = build.node("Pad", conv, build.shape(0, 0, 1, 1, 0, 0, 1, 1), build.constant(0.0))
    average = build.node("AveragePool", around, kernel_shape=[3, 3], count_include_pad=1)
    graph = agree(build.model(average), tmp_path / "m.onnx")
    assert [type(node) for node in graph.nodes] == [Conv, Pool]
    assert graph.nodes[0].padding == (2, 3, 3, 0)
    # zeros around a maximum are not the minus infinity of its own padding
    largest = build.node("MaxPool", around, kernel_shape=[3, 3], strides=[2, 2])
    graph = agree(build.model(largest), tmp_path / "m.onnx")
    assert [type(node) for node in graph.nodes] == [Conv, Move, Pool]
