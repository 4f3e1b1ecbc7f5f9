"""``python -m bench.quantize``: the int8 file that sparse artifacts are measured against."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from bench_builders import PREPROCESSING, SHAPE, invoke, make_evaluation
from click.testing import CliRunner
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from bench.measure.onnx_layers import dtype_of
from bench.quantize import calibration_files, main, spread
from runtime.errors import UserError

onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime's tool quantises")


def network(batch_size: int | str) -> ModelProto:
    """Convolution with a batch normalisation, and a matrix product."""
    random = np.random.default_rng(0)
    ones = np.ones(8, np.float32)
    constants = {
        "filters": random.standard_normal((8, SHAPE[0], 3, 3)).astype(np.float32),
        "scale": 2 * ones, "shift": ones, "mean": 0 * ones, "variance": ones,
        "weights": random.standard_normal((8, 3)).astype(np.float32),
    }  # fmt: skip
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "filters"], ["c"], pads=[1] * 4),
            helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "variance"], ["n"]),
            helper.make_node("Relu", ["n"], ["r"]),
            helper.make_node("GlobalAveragePool", ["r"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("MatMul", ["f", "weights"], ["y"]),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch_size, *SHAPE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch_size, 3])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def pictures() -> NDArray[np.uint8]:
    return np.random.default_rng(2).integers(0, 256, (40, *SHAPE), np.uint8)


@pytest.mark.parametrize("batch_size", ["n", 4])
def test_every_layer_is_in_int8_and_answers_alike(
    batch_size: int | str, pictures: NDArray[np.uint8], tmp_path: Path
) -> None:
    onnx.save(network(batch_size), tmp_path / "model.onnx")
    np.save(tmp_path / "training.npy", pictures)
    arguments = [tmp_path / "model.onnx", "--calibration", tmp_path / "training.npy", "--json"]
    arguments += ["--evaluation", make_evaluation(tmp_path / "evaluation"), "--pictures", 26]
    made = json.loads(invoke(main, *arguments, "--out", tmp_path / "int8.onnx"))
    assert (made["layers"], made["int8"]) == (2, 2)
    assert made["pictures"] == 24  # whole batches
    model = onnx.load(tmp_path / "int8.onnx")
    assert dtype_of(model) == "int8"
    assert {"QuantizeLinear", "DequantizeLinear"} < {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    inputs = PREPROCESSING.apply(pictures[:4])
    answers = [
        onnxruntime.InferenceSession(tmp_path / name, providers=["CPUExecutionProvider"]).run(None, {"x": inputs})[0]
        for name in ("model.onnx", "int8.onnx")
    ]
    assert 0 < np.abs(answers[0] - answers[1]).max() < 0.05 * np.abs(answers[0]).max()
    assert not list(tmp_path.glob("tmp*"))
    with pytest.raises(UserError, match=r"int8\.onnx is quantised already; give the float32 file"):
        invoke(main, tmp_path / "int8.onnx", *arguments[1:], "--out", tmp_path / "twice.onnx")


def test_pictures_of_the_evaluation_set_are_refused(pictures: NDArray[np.uint8], tmp_path: Path) -> None:
    evaluation = make_evaluation(tmp_path / "evaluation")
    for path in (evaluation, evaluation / "images.npy"):
        with pytest.raises(UserError, match=r"belongs to the evaluation set, on which accuracy is measured; give trai"):
            calibration_files([path], evaluation, 10)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no pictures and no \.npy arrays in .*empty"):
        calibration_files([tmp_path / "empty"], evaluation, 10)


def test_pictures_are_taken_from_all_folders(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"class{number}").mkdir()
        for picture in range(3):
            (tmp_path / f"class{number}/{picture}.png").touch()
    (tmp_path / "notes.txt").touch()
    found = calibration_files([tmp_path], tmp_path / "evaluation", 10)
    assert [path.parent.name for path in found] == [f"class{number}" for number in range(10)]
    assert spread(3, 10) == [0, 1, 2]


def test_what_does_not_fit_is_refused_in_one_line(pictures: NDArray[np.uint8], tmp_path: Path) -> None:
    onnx.save(network(64), tmp_path / "model.onnx")
    np.save(tmp_path / "training.npy", pictures)
    arguments = [tmp_path / "model.onnx", "--calibration", tmp_path / "training.npy"]
    arguments += ["--evaluation", make_evaluation(tmp_path / "evaluation"), "--out", tmp_path / "int8.onnx"]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert isinstance(result.exception, UserError)
    assert "takes at least 64 pictures of (1, 8, 8), got 40 of (1, 8, 8)" in str(result.exception)
    assert not (tmp_path / "int8.onnx").exists()
