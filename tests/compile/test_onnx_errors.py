"""What the entrance for ONNX files refuses, and what it says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper
from onnx_models import Builder

from compile.from_onnx import read_graph
from compile.network import Normalisation
from compile.onnx_file import read_onnx
from compile.onnx_network import open_onnx
from runtime.errors import UserError


def refused(path: Path, model: ModelProto, message: str, batch_size: int = 2) -> None:
    onnx.save(model, path)
    with pytest.raises(UserError, match=message):
        read_graph(read_onnx(path), batch_size)


def transposed(build: Builder) -> str:
    return build.node("Transpose", "x", perm=[0, 2, 3, 1])


def shuffled(build: Builder) -> str:
    """A map of the same shape whose numbers lie in no order of pixels and channels."""
    return build.node("Reshape", transposed(build), build.shape(0, 3, 9, 7))


OPERATORS: list[tuple[Callable[[Builder], str], str]] = [
    (
        lambda b: b.node("LeakyRelu", "x"),
        r"'node_leakyrelu_0' uses the operator LeakyRelu, which .* does not have \(it",
    ),
    (lambda b: b.node("Softmax", "x"), r"Softmax.*leave it out, `st3 run` does it: onnx.utils.extract_model.*\['x'\]"),
    (lambda b: b.node("HardSigmoid", "x"), r"'node_hardsigmoid_0' \(HardSigmoid\).*none of relu, relu6, silu"),
    (lambda b: b.node("Clip", "x", b.constant(-1.0), b.constant(1.0)), r"\(Clip\).*none of relu, relu6"),
    (lambda b: b.node("Clip", "x", b.constant(0.0), b.constant(100.0)), r"\(Clip\).*none of relu, relu6"),
    (
        lambda b: b.node("Mul", "x", b.constant(np.zeros((9, 7)) + np.arange(7))),
        r"'node_mul_0' \(Mul\) combines a map \(3, 9, 7\) with a constant \(9, 7\)",
    ),
    (lambda b: b.node("Max", "x", b.constant(np.arange(7))), r"\(Max\) combines .* constant 'c0' \(7,\)"),
    (lambda b: b.node("Div", b.conv("x", 3, 3), "x"), r"\(Div\) combines maps"),
    (
        lambda b: b.node("Add", b.conv("x", 3, 3, pads=[0] * 4), b.conv("x", 3, 3, 7, pads=[0] * 4)),
        r"\(Add\) does not fit the shapes",
    ),
    (
        lambda b: b.node("Add", b.node("Relu", "x"), shuffled(b)),
        r"'node_reshape_\d' \(Reshape\) puts channels and pixels of maps in an order \[2, 3, 9, 7\]",
    ),
    (lambda b: b.node("Conv", "x", b.conv("x", 3, 3)), r"\(Conv\) has weight 'conv_0' computed at run time"),
    (
        lambda b: b.node("Conv", transposed(b), b.normal(4, 9, 1, 1)),
        r"'node_conv_1' \(Conv\) needs a map \(B, C, H, W\)",
    ),
    (lambda b: b.node("MatMul", "x", b.normal(7, 2)), r"\(MatMul\) is a linear layer over part of a map"),
    (lambda b: b.node("Relu", b.node("Flatten", "x", axis=2)), r"result 'relu_1' is a permuted map"),
    (
        lambda b: b.node("Reshape", "x", b.shape(4, 2, -1)),
        r"\(Reshape\) reshapes \[2, 3, 9, 7\] to \[4, 2, -1\].*dynamic batch",
    ),
    (lambda b: b.node("Relu", b.node("Reshape", "x", b.shape(-1))), r"result 'relu_1' is a permuted map"),
    (lambda b: b.node("Reshape", "x", b.conv("x", 3, 3)), r"\(Reshape\) has shape 'conv_0' computed at run time"),
    (lambda b: b.node("Gather", "x", b.constant(3, np.int64), axis=1), r"\(Gather\) takes places 3 to 3 of 3"),
    (lambda b: b.node("Gather", "x", b.node("Cast", "x", to=7), axis=1), r"\(Cast\) makes INT64 of a map"),
    (lambda b: b.node("Transpose", "x", perm=[1, 0, 2, 3]), r"result 'transpose_0' is a permuted map"),
    (lambda b: transposed(b), r"the network's result 'transpose_0' is a permuted map.*leave the last permutation out"),
    (lambda b: b.axes("ReduceMean", "x", [3]), r"\(ReduceMean\) averages over dimensions \[3\]"),
    (lambda b: b.axes("ReduceMean", "x", [1]), r"\(ReduceMean\) averages over dimensions \[1\]"),
    (lambda b: b.node("Pad", "x", b.shape(0, 0, 1, 1, 0, 0, 1, 1), b.constant(1.0)), r"\(Pad\) pads with the value 1;"),
    (lambda b: b.node("Pad", "x", b.shape(0, 0, 1, 1, 0, 0, 1, 1), mode="reflect"), r"\(Pad\) pads with reflect"),
    (lambda b: b.node("Pad", "x", b.shape(0, 1, 0, 0, 0, 0, 0, 0)), r"\(Pad\) puts channels and pixels"),
    (lambda b: b.node("Pad", "x", b.shape(1, 0, 0, 0, 0, 0, 0, 0)), r"\(Pad\) pads by .*, the batch too"),
    (lambda b: b.node("Concat", "x", b.conv("x", 3, 3), axis=2), r"\(Concat\) puts channels and pixels of maps in an"),
    (
        lambda b: b.node("LayerNormalization", "x", b.normal(7)),
        r"\(LayerNormalization\) normalises over \[7\]; .* the channels of each pixel",
    ),
    (
        lambda b: b.node("Conv", "x", b.normal(2, 3, 12, 1)),
        r"\(Conv\) would have a result of shape \(2, -2, 7\); .* too small",
    ),
    (
        lambda b: b.node("DepthToSpace", b.conv("x", 3, 12), blocksize=2),
        r"\(DepthToSpace\) puts channels and pixels of maps in an order",
    ),
    (lambda b: b.node("Cast", "x", to=TensorProto.FLOAT16), r"\(Cast\) makes FLOAT16 of a map"),
    (
        lambda b: b.node("DequantizeLinear", b.node("QuantizeLinear", "x", b.constant(0.1)), b.constant(0.1)),
        r"'node_quantizelinear_0' \(QuantizeLinear\) belongs to a quantised \(int8\) network",
    ),
]


@pytest.mark.parametrize(("make", "message"), OPERATORS, ids=[message[:24] for _, message in OPERATORS])
def test_what_the_graph_has_not_is_named(tmp_path: Path, make: Callable[[Builder], str], message: str) -> None:
    build = Builder(18)
    refused(tmp_path / "m.onnx", build.model(make(build)), message)


def test_operators_of_other_domains(tmp_path: Path) -> None:
    build = Builder(18)
    model = build.model(build.node("FusedConv", "x", build.normal(2, 3, 1, 1), domain="com.microsoft"))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    refused(tmp_path / "m.onnx", model, r"operator com.microsoft.FusedConv.*before ONNX Runtime optimised it")


def test_what_the_answer_does_not_need_may_be_anything(tmp_path: Path) -> None:
    build = Builder(18)
    build.node("LeakyRelu", "x")
    onnx.save(build.model(build.node("Relu", "x")), tmp_path / "m.onnx")
    assert len(read_graph(read_onnx(tmp_path / "m.onnx"), 1).nodes) == 1


@pytest.mark.parametrize("opset", [12, 24])
def test_opsets_outside_the_range(tmp_path: Path, opset: int) -> None:
    build = Builder(opset)
    model = build.model(build.node("Relu", "x"))
    refused(tmp_path / "m.onnx", model, rf"has opset {opset}, st3 reads 13 to 23; export it again")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (("N", 3, "height", "width"), r"\['N', 3, 'height', 'width'\]; only the batch may be dynamic"),
        (("N", None, 8, 8), r"\['N', '\?', 8, 8\]; only the batch may be dynamic"),
        (("N", 3, 8), r"has shape \['N', 3, 8\]; st3 compiles networks of pictures"),
    ],
)
def test_pictures_of_no_fixed_size(tmp_path: Path, shape: tuple[object, ...], message: str) -> None:
    build = Builder(18)
    refused(tmp_path / "m.onnx", build.model(build.node("Relu", "x"), shape), message)


def test_other_inputs_outputs_and_types(tmp_path: Path) -> None:
    build = Builder(18)
    model = build.model(build.node("Relu", "x"))
    second = helper.make_tensor_value_info("mask", TensorProto.FLOAT, ("N", 1))
    model.graph.input.append(second)
    refused(tmp_path / "m.onnx", model, r"takes \['x', 'mask'\] and returns \['relu_0'\].*one picture tensor in")
    model.graph.input[1].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    del model.graph.input[1]
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    refused(tmp_path / "m.onnx", model, r"input 'x' is FLOAT16; st3 compiles float32 networks")


@pytest.mark.parametrize("raw", [b"", b"\x00\x01garbage", b"{}" * 100])
def test_files_that_are_no_models(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(raw)
    with pytest.raises(UserError, match=r"m\.onnx is no whole ONNX file"):
        read_onnx(tmp_path / "m.onnx")


def test_weights_that_do_not_fill_their_shape(tmp_path: Path) -> None:
    build = Builder(18)
    model = build.model(build.node("Conv", "x", build.normal(8, 3, 3, 3)))
    model.graph.initializer[0].dims[0] = 7
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(UserError, match=r"m\.onnx is no whole ONNX file: cannot reshape array of size 216"):
        read_onnx(tmp_path / "m.onnx")


def test_a_pooling_larger_than_its_map_does_not_end_the_process(tmp_path: Path) -> None:
    """ONNX's shape inference, in ONNX Runtime too, aborts at it; the graph refuses what comes before."""
    build = Builder(18)
    pooled = build.node("MaxPool", build.node("LeakyRelu", build.conv("x", 3, 4)), kernel_shape=[64, 3])
    onnx.save(build.model(pooled), tmp_path / "m.onnx")
    with pytest.raises(UserError, match=r"operator LeakyRelu, which the native backend does not have"):
        open_onnx(tmp_path / "m.onnx", 1, Normalisation())


@pytest.mark.parametrize(
    ("shape", "pads", "message"),
    [
        (("N", 3, 2**24, 7), [1] * 4, r"^a batch of 1 x 3 x 16777216 x 7 has more than 268,435,456 numbers; give a"),
        ((2**24, 3, 9, 7), [1] * 4, r"^a batch of 16777216 x 3 x 9 x 7 has more than 268,435,456 numbers"),
        (("N", 3, 9, 7), [1, 1, 1, 2**24], r"^value 'conv_0' would have shape .*, more than 1073741824 numbers"),
    ],
    ids=["picture", "batch", "padding"],
)
def test_what_takes_all_memory_is_refused_before(
    tmp_path: Path, shape: tuple[object, ...], pads: list[int], message: str
) -> None:
    build = Builder(18)
    onnx.save(build.model(build.conv("x", 3, 8, pads=pads), shape), tmp_path / "m.onnx")
    with pytest.raises(UserError, match=message):
        open_onnx(tmp_path / "m.onnx", 2, Normalisation())


def test_a_million_answers_are_no_classes(tmp_path: Path) -> None:
    build = Builder(18)
    wide = build.node("Flatten", build.conv("x", 3, 8, pads=[2**7] * 4))
    onnx.save(build.model(wide, ("N", 3, 512, 512)), tmp_path / "m.onnx")
    network, origin = open_onnx(tmp_path / "m.onnx", 1, Normalisation())
    assert network.output_names == (wide,)
    assert origin.classes == ()


def test_weights_in_a_file_that_is_missing(tmp_path: Path) -> None:
    build = Builder(18)
    model = build.model(build.node("Conv", "x", build.normal(8, 3, 3, 3)))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    assert read_graph(read_onnx(tmp_path / "m.onnx"), 1).nodes[0].weight.shape == (8, 3, 3, 3)
    (tmp_path / "m.data").unlink()
    with pytest.raises(UserError, match=r"no whole ONNX file.*m\.data.*copy it again \(with its data file\)"):
        read_onnx(tmp_path / "m.onnx")
