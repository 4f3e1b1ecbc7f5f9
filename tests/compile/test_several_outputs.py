"""Networks with several outputs: their names, and what each backend makes of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from several_outputs import Pair, Pyramid, Segments
from support import Compiler, answers, checkpoint_info, export_module, prune_randomly
from torch import Tensor, nn

import st3
from compile.from_checkpoint import TorchNetwork
from compile.lower import lower
from compile.onnx_file import read_onnx
from runtime.artifact import MANIFEST, list_files, open_artifact, write_manifest
from runtime.check import replay
from runtime.engine import load, load_into
from runtime.errors import UserError
from st3.graph import export_graph
from st3.outputs import name_outputs

SHAPE = (2, 11, 9)


class Answers(nn.Module):
    """Whatever ``answer`` makes of the network, its input and a convolution of it."""

    def __init__(self, answer: Callable[[nn.Module, Tensor, Tensor], object]) -> None:
        super().__init__()
        self.conv, self.answer = nn.Conv2d(2, 3, 1), answer
        self.register_buffer("fixed", torch.ones(2, 3))

    def forward(self, x: Tensor) -> object:
        return self.answer(self, x, self.conv(x))


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        (lambda _, x, y: y, ["output"]),
        (lambda _, x, y: {"b": y, "a": y.relu()}, ["b", "a"]),
        (lambda _, x, y: OrderedDict([(1, y), (0, y.relu())]), ["1", "0"]),
        (lambda _, x, y: (y, y.relu()), ["output_0", "output_1"]),
        (lambda _, x, y: [y], ["output"]),
        (lambda _, x, y: Pair(y, y.relu()), ["out", "aux"]),
        (lambda _, x, y: {"out": y}, ["out"]),
        (lambda _, x, y: {"a": [y, y.relu()], "b": {"c": y}}, ["a_0", "a_1", "b_c"]),
    ],
)
def test_names_come_from_the_answer_and_outlive_the_file(
    answer: Callable[..., object], names: list[str], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module = Answers(answer)
    network = TorchNetwork(export_graph(module, SHAPE), SHAPE, 2)
    assert network.output_names == tuple(names)
    inputs = np.random.default_rng(0).standard_normal((2, *SHAPE)).astype(np.float32)
    for given, wanted in zip(network.answer(inputs), answers(module, inputs).values(), strict=True):
        np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-6)
    assert len(network.graph().outputs) == len(names)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda m, x, y: {"a": y, "b": x}, "output 'b' is the input itself"),
        (lambda m, x, y: {"a": y, "b": m.fixed}, "output 'b' is the constant fixed"),
        (lambda m, x, y: {"a": y, "b": m.fixed * 2}, "output 'b' is the constant"),
        (lambda m, x, y: {"a": y, "b": None}, "output 'b' is NoneType; st3 takes tensors"),
        (lambda m, x, y: {"a": y, "b": 3}, "output 'b' is int; st3 takes tensors"),
        (lambda m, x, y: {"a": y, "b": y.argmax(1)}, "output 'b' is int64; an artifact's outputs are float32"),
        (lambda m, x, y: {"a": y, "b": y.mean()}, r"output 'b' has the shape \(\) for 2 pictures"),
        (lambda m, x, y: {"a": y, "b": y.sum(0)}, r"output 'b' has the shape \(3, 11, 9\) for 2 pictures"),
        (lambda m, x, y: {1: y, "1": y.relu()}, "two outputs named '1'"),
        (lambda m, x, y: {"a": y, "input": y.relu()}, "output 'input' has the input's name"),
        (lambda m, x, y: {"a": y, "b\n": y}, "a name has 1 to 100 printable characters"),
        (lambda m, x, y: {}, "an empty dict"),
        (lambda m, x, y: [y] * 65, "has 65 outputs, an artifact has at most 64"),
    ],
)
def test_what_is_no_output_is_one_line(answer: Callable[..., object], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        TorchNetwork(export_graph(Answers(answer), SHAPE), SHAPE, 2)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("sizes", "isa"), [((1,), "native"), ((1, 3), "native"), ((2, 16), "portable")])
def test_native_answers_with_all_of_them(sizes: tuple[int, ...], isa: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = prune_randomly(Pyramid(), 0.4)
    artifact = Compiler(tmp_path).artifact(module, SHAPE, sizes, isa=isa)
    assert replay(load(artifact.folder)).passed
    given = np.random.default_rng(1).standard_normal((2 * sizes[-1] + 1, *SHAPE)).astype(np.float32)
    expected = answers(module, given)
    for threads in (1, 3):
        engine = load(artifact.folder, threads)
        result = engine.run({"input": given})
        assert list(result) == list(expected)
        for name, output in expected.items():
            np.testing.assert_allclose(result[name], output, rtol=1e-4, atol=1e-5, err_msg=name)
        engine.close()


def test_channels_in_the_lanes(tmp_path: Path) -> None:
    torch.manual_seed(0)

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 16, 3, 2, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.one(x).relu()
            return y, self.two(y)

    compiler = Compiler(tmp_path)
    assert compiler.deviation(Two(), (3, 10, 12)) < 1e-5
    text = next(compiler.folder.glob("*/source/b1/network.cpp")).read_text()
    assert "dense_channels" in text
    assert "OUTPUT_FLOATS[2]" in text


@pytest.mark.parametrize("key", ["onnxruntime", "openvino"])
def test_an_onnx_payload_names_them(key: str, tmp_path: Path) -> None:
    if key == "openvino":
        pytest.importorskip("openvino", reason="openvino is not installed")
    torch.manual_seed(0)
    module = Pyramid()
    artifact = Compiler(tmp_path).artifact(module, SHAPE, 2, "onnxruntime")
    assert replay(load_into(key, artifact, 1)).passed


def test_an_onnx_file_with_several_outputs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Pyramid()
    artifact = Compiler(tmp_path).artifact(module, SHAPE, 2, "onnxruntime")
    path = artifact.payload / "model.onnx"
    folder = lower(path, tmp_path, "native", (1, 2), 1, "native")
    engine = load(folder)
    assert replay(engine).passed
    manifest = engine.artifact.manifest
    assert [spec.name for spec in manifest.outputs] == [spec.name for spec in artifact.manifest.outputs]
    assert manifest.classes == ()
    for change, message in (
        (lambda graph: graph.output.append(graph.output[0]), "returns 'before' twice|whole ONNX file"),
        (lambda graph: graph.output[0].CopyFrom(graph.input[0]), "returns 'input' which is the input"),
    ):
        model = onnx.load(path)
        change(model.graph)
        onnx.save(model, tmp_path / "changed.onnx")
        with pytest.raises(UserError, match=message):
            read_onnx(tmp_path / "changed.onnx")


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a network that answers with a named tuple."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("segments")
    info = msgspec.structs.replace(checkpoint_info("dense", st3.SparsityPlan(sparsity=0.0), (1, 8, 8)), classes=())
    module = Segments().eval()
    return st3.write_checkpoint(
        folder / "dense", module, info, dict.fromkeys(("body", "out", "aux"), ("dense", ""))
    ).folder


@pytest.mark.exhaustive
def test_inductor_answers_with_all_of_them(segments: Path, tmp_path: Path) -> None:
    assert replay(load(lower(segments, tmp_path, "inductor", (2,), 1, "native"))).passed


def test_from_a_checkpoint_to_its_check(segments: Path, tmp_path: Path) -> None:
    folder = lower(segments, tmp_path, "native", (1, 2), 1, "native")
    manifest = open_artifact(folder).manifest
    assert [(spec.name, spec.shape) for spec in manifest.outputs] == [("out", (2, 3, 8, 8)), ("aux", (2, 2, 8, 8))]
    assert manifest.tolerances == (1e-4, 1e-4)
    result = replay(load(folder))
    assert [(output.name, output.passed) for output in result.outputs] == [("out", True), ("aux", True)]
    # an error in the second output alone is seen, against its own tolerance
    golden = np.load(folder / "golden/outputs-1.npy")
    np.save(folder / "golden/outputs-1.npy", golden * np.float32(1.01))
    changed = msgspec.structs.replace(manifest, files=list_files(folder))
    write_manifest(folder, changed)
    result = replay(load(folder))
    assert [output.passed for output in result.outputs] == [True, False]
    assert not result.passed
    assert result.error == result.outputs[1].error
    tolerance = msgspec.structs.replace(manifest.tolerance, more=(0.1,))
    write_manifest(folder, msgspec.structs.replace(changed, tolerance=tolerance))
    assert replay(load(folder)).passed
    assert (folder / MANIFEST).stat().st_size > 0


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_gpus_program_returns_them(segments: Path, tmp_path: Path, dtype: str) -> None:
    from runtime.cuda.replay import tensors_of
    from runtime.engines import inductor

    folder = lower(segments, tmp_path, "inductor", (6,), 1, "sm_123", device="cuda", dtype=dtype)
    opened = open_artifact(folder)
    inductor.register_ops(opened)
    with torch.no_grad():
        results = tensors_of(inductor._exported(opened)(torch.from_numpy(np.load(folder / "golden/inputs.npy"))))
    tolerances = opened.manifest.tolerances
    assert len(set(tolerances)) == (1 if dtype == "float32" else 2)
    for index, (result, tolerance) in enumerate(zip(results, tolerances, strict=True)):
        golden = np.load(folder / f"golden/outputs{f'-{index}' if index else ''}.npy")
        assert np.abs(result.numpy() - golden).max() < tolerance * np.abs(golden).max()


def test_a_dictionary_keeps_what_classifiers_had() -> None:
    assert name_outputs(torch.zeros(1)) == [("output", torch.zeros(1))]
    network = TorchNetwork(export_module(nn.Conv2d(2, 3, 1), SHAPE), SHAPE, 2)
    assert network.output_names == ("output",)
