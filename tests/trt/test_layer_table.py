"""From a builder's log, an inspector's JSON and the weights to what became of each layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compile.tensorrt.build_log import BuildLog, read_log
from compile.tensorrt.engine_layers import EngineLayer, by_node, node_names, read_inspection
from compile.tensorrt.two_of_four import WeightCheck, check_weights, why_not
from compile.tensorrt.verdict import Verdict, judge, summary
from runtime.trt import RTX, TENSORRT, Library

REAL = Path(__file__).parent / "data/rtx-1.7.1-resnet18-2to4.log"
TRT = Library(TENSORRT, "10.15.1", None)
FITS = {"op": "Conv", "shape": (64, 64, 3, 3), "density": 0.5}

# From documentation, not from a build of ours. TensorRT 8: developer guide, "Structured Sparsity"; NVIDIA/TensorRT#4054
# has fused names. TensorRT 10: the README of NVIDIA ModelOpt's sparse int8 example (TensorRT 10.14), which gives the
# words and leaves the names out; logs without names are public as well.
DOCUMENTED = {
    "8": (
        "[03/23/2021-00:14:05] [I] [TRT] (Sparsity) Layers eligible for sparse math: conv1, conv2 + conv2/relu, conv3",
        "[03/23/2021-00:14:05] [I] [TRT] (Sparsity) TRT inference plan picked sparse implementation for layers: "
        "conv2 + conv2/relu, conv3",
    ),
    "10": (
        "[I] (Sparsity) Found 3 layer(s) eligible to use sparse tactics: conv1, conv2 + conv2/relu, conv3",
        "[I] (Sparsity) Chose 2 layer(s) using sparse tactics: conv2 + conv2/relu, conv3",
    ),
}

# From documentation: the shape of the inspector's JSON in NVIDIA's TensorRT repository (trt-engine-explorer), tactic
# names as public profiles show them.
INSPECTION = """{"Layers": [
  {"Name": "Reformatting CopyNode for Input Tensor 0 to conv1 + conv1/relu", "LayerType": "Reformat",
   "TacticName": "", "TacticValue": "0x00000000000003e8", "Metadata": "[ONNX Layer: conv1]"},
  {"Name": "conv1 + conv1/relu", "LayerType": "CaskConvolution", "ParameterType": "Convolution", "Kernel": [3,3],
   "HasSparseWeights": 0, "TacticName": "sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize128x64",
   "Metadata": "[ONNX Layer: conv1]\\u001e[ONNX Layer: conv1/relu]"},
  {"Name": "conv2", "LayerType": "CaskConvolution", "ParameterType": "Convolution",
   "TacticName": "sm80_xmma_fprop_sparse_conv_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize128x128x64",
   "Metadata": "[ONNX Layer: conv2]"}
], "Bindings": ["input", "output"]}"""


def fits(*names: str) -> list[WeightCheck]:
    return [WeightCheck(node=name, reason="", **FITS) for name in names]


def test_a_real_log_of_tensorrt_for_rtx() -> None:
    log = read_log(REAL.read_text().splitlines())
    assert log.eligible is None  # RTX says nothing of sparsity
    assert log.chosen is None
    names = [f"layer{stage}.{block}.conv{conv}" for stage in range(1, 5) for block in range(2) for conv in (1, 2)]
    names += [f"layer{stage}.0.downsample.0" for stage in range(2, 5)]
    checks = [WeightCheck(node="conv1", op="Conv", shape=(64, 3, 7, 7), density=1.0, reason="3 input channels cannot")]
    table = judge(["conv1", *names, "fc"], [*checks, *fits(*names, "fc")], log, (), Library(RTX, "1.7.1.116", None))
    found = {verdict.layer: verdict for verdict in table}
    assert [verdict.layer for verdict in table if not verdict.eligible] == ["conv1"]
    # the cast before the first convolution names it as well, and is not taken for it
    assert found["conv1"].reason == "3 input channels cannot; fused with relu"
    assert by_node(log.layers)["conv1"].kind == "correlation"
    assert found["layer2.0.downsample.0"].fused == ("layer2.0.downsample.0/relu", "layer2.0.downsample.0/add")
    assert found["layer2.0.conv2"].reason == (
        "2:4; TensorRT for RTX 1.7.1.116 chooses the kernel when it loads the plan on a GPU, and says nothing of "
        "sparsity"
    )
    assert found["fc"].reason.startswith("2:4; TensorRT for RTX")
    assert not any(verdict.sparse or verdict.kernel for verdict in table)
    assert summary(table) == "21 layers: 20 can run sparse, 0 are known to"


@pytest.mark.parametrize("version", DOCUMENTED)
def test_the_documented_wording(version: str) -> None:
    log = read_log(DOCUMENTED[version])
    assert log.eligible is not None
    assert log.chosen is not None
    assert (log.eligible.count, log.chosen.count) == (3, 2)
    table = judge(["conv1", "conv2", "conv3", "conv4"], fits("conv1", "conv2", "conv3", "conv4"), log, (), TRT)
    assert [verdict.format for verdict in table] == ["dense", "semi_structured", "semi_structured", "dense"]
    assert [verdict.reason for verdict in table] == [
        "2:4 and eligible; TensorRT 10.15.1 timed a dense kernel as faster",
        "TensorRT 10.15.1 chose a sparse kernel",
        "TensorRT 10.15.1 chose a sparse kernel",
        "2:4, but not eligible according to TensorRT 10.15.1",
    ]


def test_counts_without_names() -> None:
    log = read_log(["(Sparsity) Found 39 layer(s) eligible to use sparse tactics\n(Sparsity) Chose 0 layer(s) using "])
    assert log.eligible is not None
    assert log.eligible.count == 39
    assert log.chosen is None  # the line was cut off
    log = read_log(
        [
            "(Sparsity) Found 39 layer(s) eligible to use sparse tactics",
            "(Sparsity) Chose 0 layer(s) using sparse tactics",
        ]
    )
    (verdict,) = judge(["a"], fits("a"), log, (), TRT)
    assert (verdict.eligible, verdict.reason) == (
        True,
        "2:4 and eligible; TensorRT 10.15.1 timed a dense kernel as faster",
    )
    none = read_log(["(Sparsity) Found 0 layer(s) eligible to use sparse tactics"])
    (verdict,) = judge(["a"], fits("a"), none, (), TRT)
    assert verdict.reason == "2:4, but not eligible according to TensorRT 10.15.1"


def test_the_inspector_names_kernels() -> None:
    layers = read_inspection(INSPECTION)
    assert by_node(layers)["conv1"].kind == "CaskConvolution"
    dense, sparse = judge(["conv1", "conv2"], fits("conv1", "conv2"), read_log([]), layers, TRT)
    assert dense == Verdict(
        "conv1",
        eligible=True,
        sparse=False,
        reason=f"2:4; TensorRT 10.15.1 runs the dense kernel {layers[1].tactic}, and its log does not say whether it "
        f"tried a sparse one; fused with relu",
        kernel=layers[1].tactic,
        fused=("conv1/relu",),
    )
    assert (sparse.format, sparse.kernel) == ("semi_structured", layers[2].tactic)
    assert sparse.reason == f"TensorRT 10.15.1 chose a sparse kernel ({layers[2].tactic})"


def test_layers_without_detail() -> None:
    assert read_inspection("") == ()
    (layer,) = read_inspection('{"Layers": ["conv1 + conv1/relu"], "Bindings": []}')
    assert layer.nodes == ("conv1", "conv1/relu")
    inside = EngineLayer("{ForeignNode[a...b]}", "Myelin", "", ("a",))
    unsaid, unnamed = judge(["a", "b"], fits("a"), BuildLog(None, None, ()), (inside,), TRT)
    assert unsaid.reason == "2:4; TensorRT 10.15.1 does not say which kernel runs it inside {ForeignNode[a...b]}"
    assert unnamed.reason == "TensorRT 10.15.1 was given no weight of this name to examine"


def test_names_from_torch_tensorrt() -> None:
    name = "[CONVOLUTION]-[aten_ops.convolution.default]-[layer1.0.conv1/convolution_2]"
    relu = "[ACTIVATION]-[aten_ops.relu.default]-[L['self'].layer1.0.relu/relu_1]"
    assert node_names(f"{name} + {relu}", "") == ("layer1.0.conv1", "layer1.0.relu")


def test_torch_tensorrt_names_a_projection_by_its_attention() -> None:
    name = "[MATRIX_MULTIPLY]-[aten_ops.linear.default]-[block.attention/linear]"
    engine = EngineLayer(name, "gemm", "sm80_xmma_gemm_sparse", node_names(name, ""))
    packed, other = judge(
        ["block.attention.in_proj", "block.attention.out_proj"], fits("a"), read_log([]), (engine,), TRT
    )
    assert (packed.sparse, packed.kernel, packed.fused) == (True, "sm80_xmma_gemm_sparse", ())
    assert other.kernel == ""


def test_which_weights_are_two_of_four() -> None:
    weight = np.ones((8, 8, 3, 3), np.float16)
    assert why_not(weight) == "no zeros"
    weight[:, 1::4] = weight[:, 2::4] = 0
    assert why_not(weight) == ""
    weight[3, 1, 2, 2] = 1
    assert why_not(weight) == "not 2:4: some group of 4 input channels keeps more than 2 weights"
    assert why_not(np.zeros((8, 6, 1, 1), np.float16)) == "6 input channels cannot be divided into groups of 4"


def test_weights_of_products_are_turned() -> None:
    """ONNX has a product's weight as (K, N); 2:4 is along K."""
    weight_KN = np.ones((8, 6), np.float16)
    weight_KN[::2] = 0
    stored = {"kn": weight_KN, "nk": np.ascontiguousarray(weight_KN.T)}
    nodes = [
        helper.make_node("MatMul", ["x", "kn"], ["a"], name="matmul"),
        helper.make_node("Gemm", ["x", "nk"], ["b"], name="gemm", transB=1),
        helper.make_node("Gemm", ["x", "kn"], ["c"], name="plain"),
        helper.make_node("Transpose", ["nk"], ["t"], name="turn", perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["d"], name="turned"),
        helper.make_node("MatMul", ["a", "b"], ["e"], name="activations"),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "products",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [1, 8])],
            [onnx.ValueInfoProto(name="e")],
            [numpy_helper.from_array(value, name) for name, value in stored.items()],
        )
    )
    checks = check_weights(model)
    assert [(check.node, check.shape, check.fits) for check in checks] == [
        (name, (6, 8), True) for name in ("matmul", "gemm", "plain", "turned")
    ]
    assert checks[0].density == 0.5
