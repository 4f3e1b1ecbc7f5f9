"""An ONNX file beside the artifacts: its own process, its accuracy, and one line where it cannot join."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from bench_builders import PICTURES, make_artifact, onnx_model
from onnx import TensorProto, helper

import bench.measure.yardstick as yardsticks
from bench.measure.session import plan_session, run_session
from bench.measure.yardstick import parse, record_of
from bench.measurement import Settings, is_dense
from bench.measurement_file import read_measurements
from bench.naming import checkpoint_name
from bench.report.analysis import analyse
from runtime.errors import UserError

pytest.importorskip("onnxruntime", reason="the yardsticks run in ONNX Runtime")

SETTINGS = Settings(rounds=2, launches=2, turn_s=0.01, warm_limit_s=0.1)


def any_batch(model: bytes) -> bytes:
    """The same network for any number of pictures."""
    loaded = onnx.load_from_string(model)
    for value in (*loaded.graph.input, *loaded.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return bytes(loaded.SerializeToString())


def relu(shape: tuple[int, ...]) -> bytes:
    """A network for other pictures: it averages them into two numbers."""
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["y"]),
        ],
        "other",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", shape[0]])],
    )
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )


@pytest.fixture
def artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CXX", "no-compiler")  # the processor's peak is not what this is about
    make_artifact(tmp_path / "artifacts/dense", "dense", 0.0, batch_size=4)
    return tmp_path / "artifacts"


def test_a_file_is_measured_beside_the_artifacts(artifacts: Path, evaluation: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.onnx").write_bytes(any_batch(onnx_model(1, 8)))
    (tmp_path / "foreign.onnx").write_bytes(relu((2, 5, 7)))
    given = [parse(f"onnxruntime:{tmp_path / name}") for name in ("mine.onnx", "foreign.onnx")]
    plan = plan_session([artifacts], evaluation, [1], SETTINGS, given)
    out = tmp_path / "m.jsonl"
    assert run_session(plan, out, lambda text: None) == 1
    session = read_measurements(out)
    analysis = analyse(session)
    assert not analysis.failures
    rows = {row.checkpoint: row for row in analysis.rows}
    assert set(rows) == {"dense", "mine.onnx", "foreign.onnx"}
    mine = rows["mine.onnx"]
    # it stands beside the recipe's artifacts, is what no speed-up is given against, and on no front
    assert (mine.recipe, mine.yardstick, mine.base, mine.pareto) == ("tiny", True, False, False)
    assert mine.speedup_vs_dense is not None
    assert mine.accuracy == (PICTURES - 7) / PICTURES
    assert mine.agreement == 1
    # (64 x 8 + 8 x 3) weights, each used once a picture
    assert mine.macs_dense == mine.macs_usable == 64 * 8 + 8 * 3
    assert rows["foreign.onnx"].accuracy is None
    reasons = {m.reason for m in session.missing if m.metric == "accuracy"}
    assert len(reasons) == 1
    assert "foreign.onnx needs" in reasons.pop()


def test_a_fixed_batch_size_joins_where_it_fits(tmp_path: Path) -> None:
    (tmp_path / "four.onnx").write_bytes(onnx_model(4, 8))
    given = parse(f"onnxruntime:{tmp_path / 'four.onnx'}")
    record = record_of(given, [1, 4], ["a", "b"], threads=2)
    assert record.target.sizes == (4,)
    assert record.lineage.recipe == "four.onnx"  # of two recipes it belongs to neither
    assert checkpoint_name(record) == "four.onnx"
    assert not is_dense(record)
    with pytest.raises(UserError, match=r"four\.onnx has the batch size 4, the artifacts have 1, 8"):
        record_of(given, [1, 8], ["a"], threads=2)


def test_what_cannot_join_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    cases = {
        "model.onnx": r"it must be ENGINE:FILE\.onnx, with onnxruntime or openvino",
        "tensorflow:model.onnx": r"it must be ENGINE:FILE\.onnx",
        f"onnxruntime:{tmp_path / 'none.onnx'}": r"there is no file .*none\.onnx; give an ONNX file",
        f"onnxruntime:{Path(__file__)}": r"does not end with \.onnx",
    }
    for text, message in cases.items():
        with pytest.raises(UserError, match=message) as error:
            parse(text)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="cannot be read as an ONNX file"):
        record_of(parse(f"onnxruntime:{tmp_path / 'broken.onnx'}"), [1], ["a"], 1)
    monkeypatch.setattr(yardsticks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="openvino is not installed: pip install openvino"):
        parse("openvino:model.onnx")


def test_a_network_of_two_inputs_is_no_yardstick(tmp_path: Path) -> None:
    shape = ["batch", 1, 8, 8]
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["y"])],
        "two",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("a", "b")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    onnx.save(helper.make_model(graph, ir_version=8), tmp_path / "two.onnx")
    with pytest.raises(UserError, match=r"two\.onnx: to be a yardstick a network has one input of 4 lengths"):
        record_of(parse(f"onnxruntime:{tmp_path / 'two.onnx'}"), [1], ["a"], 1)
