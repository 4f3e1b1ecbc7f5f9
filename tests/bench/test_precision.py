"""Yardsticks below float32: quantised files are read through their quantisers, and no precision is claimed that did not
run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from bench_builders import CLASSES, PICTURES, SHAPE, make_artifact, make_evaluation
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import bench.measure.yardstick as yardsticks
from bench.machine.precision import INSTRUCTIONS, precisions_of
from bench.measure.onnx_layers import dtype_of, fixed_batch, layers_of
from bench.measure.session import plan_session, run_session
from bench.measure.yardstick import open_yardstick, parse, record_of
from bench.measurement import Settings
from bench.measurement_file import read_measurements
from bench.report.analysis import analyse
from runtime.data import load_evaluation_set
from runtime.errors import UserError
from runtime.machine import cpu_flags

pytest.importorskip("onnxruntime", reason="the yardsticks run in ONNX Runtime")

SETTINGS = Settings(rounds=2, launches=1, turn_s=0.01, warm_limit_s=0.1)
HERE = precisions_of(cpu_flags())
FILTERS = 16
ROOT = Path(__file__).parents[2]


def network() -> bytes:
    """A convolution and a matrix product whose weights are exact in 8 bits, a third of them zero."""
    generator = np.random.default_rng(0)

    def normal(*shape: int) -> NDArray[np.float32]:
        values = generator.choice([-127, -64, 0, 0, 32, 127], shape).astype(np.float32) / 127
        return values / np.float32(np.sqrt(np.prod(shape[1:])))

    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "filters"], ["c"], pads=[1] * 4, name="conv"),
            helper.make_node("Relu", ["c"], ["r"], name="relu"),
            helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
            helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
            helper.make_node("MatMul", ["f", "weights"], ["y"], name="product"),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *SHAPE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", len(CLASSES)])],
        [
            numpy_helper.from_array(normal(FILTERS, SHAPE[0], 3, 3), "filters"),
            numpy_helper.from_array(normal(FILTERS, len(CLASSES)), "weights"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def quantise(folder: Path, **how: object) -> Path:
    """The network as ONNX Runtime's own tool quantises it."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Pictures(CalibrationDataReader):
        def __init__(self) -> None:
            generator = np.random.default_rng(0)
            self.left = [generator.standard_normal((8, *SHAPE)).astype(np.float32) for _ in range(4)]

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:  # type: ignore[override]
            return {"x": self.left.pop()} if self.left else None

    (folder / "float32.onnx").write_bytes(network())
    target = folder / "int8.onnx"
    types = {"weight_type": QuantType.QInt8, "activation_type": QuantType.QUInt8}
    quantize_static(folder / "float32.onnx", target, Pictures(), **(types | how))
    return target


def test_layers_are_read_through_their_quantisers(tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType

    plain = layers_of(fixed_batch(onnx.load_from_string(network()), 2), 2)
    assert [(layer.op, layer.macs_dense) for layer in plain] == [("conv2d", 64 * 9 * FILTERS), ("linear", FILTERS * 3)]
    assert plain[0].nonzeros < 9 * FILTERS
    for how in (
        {"per_channel": True, "quant_format": QuantFormat.QDQ},
        {"per_channel": True, "quant_format": QuantFormat.QOperator},
        # zero is not 0 in these
        {"weight_type": QuantType.QUInt8, "quant_format": QuantFormat.QDQ},
        {"weight_type": QuantType.QUInt8, "quant_format": QuantFormat.QOperator},
    ):
        model = fixed_batch(onnx.load(quantise(tmp_path, **how)), 2)
        assert dtype_of(model) == "int8", how
        # the standard does not know ONNX Runtime's pooling of integers, nor therefore the shapes behind it
        layers, known = layers_of(model, 2), 1 if how["quant_format"] == QuantFormat.QOperator else 2
        assert len(layers) == known
        assert all(layer.reason == "the engine computes every zero, in int8" for layer in layers)
        names = ("op", "weight_shape", "nonzeros", "density", "macs_dense", "macs_nonzero")
        for layer, same in zip(layers, plain[:known], strict=True):
            assert [getattr(layer, name) for name in names] == [getattr(same, name) for name in names], how


def test_a_file_with_small_weights_alone_is_computed_in_float32(tmp_path: Path) -> None:
    model = onnx.load(quantise(tmp_path))
    assert dtype_of(model) == "int8"
    for node in model.graph.node:  # the activations go past their quantisers
        if node.op_type in ("Conv", "MatMul"):
            node.input[0] = "x" if node.op_type == "Conv" else "f"
    assert dtype_of(model) == "float32"


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_quantised_file_is_measured_and_called_int8(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(name, reason=f"{name} is not installed")
    monkeypatch.setenv("CXX", "no-compiler")  # the processor's peak is not what this is about
    make_artifact(tmp_path / "artifacts/dense", "dense", 0.0, batch_size=2)
    evaluation = make_evaluation(tmp_path / "evaluation")
    path = quantise(tmp_path)
    given = [parse(f"{name}:{path}"), parse(f"{name}:{tmp_path / 'float32.onnx'}")]
    out = tmp_path / "m.jsonl"
    assert run_session(plan_session([tmp_path / "artifacts"], evaluation, [1], SETTINGS, given), out, print) == 1
    session = read_measurements(out)
    assert {record.name: record.target.dtype for record in session.artifacts} == {
        "dense-0": "float32",
        "int8.onnx": "int8",
        "float32.onnx": "float32",
    }
    analysis = analyse(session)
    assert not analysis.failures
    rows = {row.checkpoint: row for row in analysis.rows}
    # eight bits change the answer to few pictures
    first, second = rows["int8.onnx"].accuracy, rows["float32.onnx"].accuracy
    assert first is not None
    assert second is not None
    assert abs(first - second) <= 10 / PICTURES


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_openvino_computes_in_the_precision_it_was_asked_for(dtype: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    if dtype not in HERE:
        pytest.skip(f"this processor has no instructions for {dtype}")
    (tmp_path / "mine.onnx").write_bytes(network())
    given = parse(f"openvino-{dtype}:{tmp_path / 'mine.onnx'}")
    record = record_of(given, [2], ["a"], 1)
    assert record.target.dtype == dtype
    assert record.digest != record_of(parse(f"openvino:{tmp_path / 'mine.onnx'}"), [2], ["a"], 1).digest
    assert record.layers[0].reason == f"the engine computes every zero; of all layers OpenVINO computes 2 in {dtype}"
    evaluation = load_evaluation_set(make_evaluation(tmp_path / "evaluation"))
    picture = np.random.default_rng(1).standard_normal((2, *SHAPE)).astype(np.float32)
    answers = {}
    for one in ("float32", dtype):
        (tmp_path / one).mkdir()
        opened = open_yardstick(given.path, "openvino", one, 2, 1, evaluation, tmp_path / one)
        answers[one] = opened.run({"x": picture})["y"]
    difference = np.abs(answers[dtype] - answers["float32"]).max() / np.abs(answers["float32"]).max()
    assert 1e-6 < difference < 2e-2


def test_a_quantised_file_may_have_its_rest_in_bfloat16(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    if "bfloat16" not in HERE:
        pytest.skip("this processor has no instructions for bfloat16")
    record = record_of(parse(f"openvino-bfloat16:{quantise(tmp_path, per_channel=True)}"), [2], ["a"], 1)
    assert record.target.dtype == "int8+bfloat16"
    assert "OpenVINO computes 2 in int8" in record.layers[0].reason


def test_what_would_run_in_another_precision_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.onnx").write_bytes(network())
    with pytest.raises(UserError, match=r"onnxruntime cannot be asked for bfloat16 on a CPU; there are openvino-bfl"):
        parse(f"onnxruntime-bfloat16:{tmp_path / 'mine.onnx'}")
    with pytest.raises(UserError, match=r"openvino cannot be asked for int8 on a CPU; .* runs in int8 as it is"):
        parse(f"openvino-int8:{tmp_path / 'mine.onnx'}")
    monkeypatch.setattr(yardsticks, "cpu_flags", lambda: frozenset({"avx2"}))
    with pytest.raises(UserError, match=r"no instructions for float16 \(amx_fp16, .*\), so that openvino would comp"):
        parse(f"openvino-float16:{tmp_path / 'mine.onnx'}")
    assert precisions_of(("bf16", "asimdhp", "sve")) == {"bfloat16": ("bf16",), "float16": ("asimdhp",)}
    assert set(INSTRUCTIONS) == {"bfloat16", "float16", "int8"}


@pytest.mark.skipif("avx512f" not in cpu_flags(), reason="it is told to use AVX-512 and no more")
def test_openvinos_own_plan_has_the_last_word(tmp_path: Path) -> None:
    """Kept from the instructions it falls back without a word: its plan says so, and it is not called float16."""
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    (tmp_path / "mine.onnx").write_bytes(network())
    script = (
        "import sys; from pathlib import Path\n"
        "from bench.measure.yardstick import open_yardstick\n"
        "from runtime.data import load_evaluation_set\n"
        "file, evaluation, folder = map(Path, sys.argv[1:])\n"
        "open_yardstick(file, 'openvino', 'float16', 2, 1, load_evaluation_set(evaluation), folder)\n"
    )
    (tmp_path / "opened").mkdir()
    done = subprocess.run(
        [
            sys.executable, "-c", script,
            tmp_path / "mine.onnx", make_evaluation(tmp_path / "evaluation"), tmp_path / "opened",
        ],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )  # fmt: skip
    message = (
        r"ArtifactError: OpenVINO computes no layer of model\.onnx in float16 on this processor, but in b?float\d\d$"
    )
    assert re.search(message, done.stderr.strip()), done.stderr
