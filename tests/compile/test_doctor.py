"""What the doctor measures of layers, and what it says is installed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from compile.doctor import gpus, native, onnxruntime_dense, software
from compile.doctor.expectation import Dense, Expectation, Point, break_even, curve
from compile.doctor.layer import BLOCKS, CHANNELS, TWO_OF_FOUR, UNSTRUCTURED, Layer, chain
from compile.doctor.show import break_even_text, expectation_tables, gpu_table, software_table
from runtime.errors import ArtifactError, UserError

POINTS = (Point(0.5, 30.0), Point(0.9, 10.0), Point(0.7, 20.0))


def shown(*parts: object) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    for part in parts:
        console.print(part)
    return console.export_text()


@pytest.mark.parametrize(
    ("dense_us", "expected"),
    [(40.0, 0.5), (30.0, 0.5), (25.0, 0.6), (20.0, 0.7), (12.0, 0.86), (10.0, None), (5.0, None)],
)
def test_the_break_even_lies_between_the_points(dense_us: float, expected: float | None) -> None:
    found = break_even(POINTS, dense_us)
    assert found == (None if expected is None else pytest.approx(expected))


def test_a_format_that_is_slower_again_pays_only_after_that() -> None:
    points = (Point(0.5, 8.0), Point(0.7, 12.0), Point(0.9, 6.0))
    assert break_even(points, 9.0) == pytest.approx(0.8)
    assert break_even((), 9.0) is None


def test_a_curve_has_a_break_even_for_each_dense_engine_of_its_own_layer() -> None:
    dense = (Dense("a", "native", 25.0), Dense("a", "onnxruntime", 5.0), Dense("b", "native", 99.0))
    found = curve("a", "offset_stream", UNSTRUCTURED, POINTS, dense)
    assert [point.sparsity for point in found.points] == [0.5, 0.7, 0.9]
    assert found.break_even == {"native": pytest.approx(0.6), "onnxruntime": None}
    assert break_even_text(found, "native") == "0.60"
    assert break_even_text(found, "onnxruntime") == "never"
    assert break_even_text(curve("b", "x", UNSTRUCTURED, POINTS, dense), "native") == "<0.5"
    assert break_even_text(curve("b", "x", TWO_OF_FOUR, POINTS[:1], dense), "native") == "0.5"


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(("weights", "sparsity"), [(UNSTRUCTURED, 0.9), (BLOCKS, 0.75), (TWO_OF_FOUR, 0.5)])
def test_a_layer_has_exactly_its_sparsity_and_pattern(kernel: int, weights: str, sparsity: float) -> None:
    weight = Layer(kernel, sparsity, weights).weight()
    assert weight.shape == (CHANNELS, CHANNELS, kernel, kernel)
    assert np.count_nonzero(weight == 0) == round(sparsity * weight.size)
    if weights == BLOCKS:
        blocks = (weight != 0).reshape(CHANNELS // 4, 4, -1)
        assert (blocks.all(1) == blocks.any(1)).all()
    if weights == TWO_OF_FOUR:
        assert ((weight != 0).reshape(CHANNELS, CHANNELS // 4, 4, -1).sum(2) == 2).all()


def test_a_chain_of_layers_keeps_its_scale_and_onnx_runtime_computes_it() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    graph = chain([Layer(3), Layer(3, 0.9), Layer(1, 0.5, BLOCKS)])
    session = onnxruntime.InferenceSession(onnxruntime_dense._model(graph), providers=["CPUExecutionProvider"])
    inputs = np.random.default_rng(1).standard_normal((1, CHANNELS, 28, 28)).astype(np.float32)
    (answer,) = session.run(None, {"input": inputs})
    assert answer.shape == inputs.shape
    assert 0.3 < float(answer.std()) < 2


@pytest.fixture
def few_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest expectation there is: tests look at what is measured, not at how fast it is."""
    monkeypatch.setattr(native, "_SPARSITIES", {UNSTRUCTURED: (0.5, 0.95), BLOCKS: (0.9,)})
    monkeypatch.setattr(native, "KERNELS", (1,))
    monkeypatch.setattr(onnxruntime_dense, "KERNELS", (1,))
    monkeypatch.setattr(native, "_TILES", 1)
    monkeypatch.setattr(native, "_ROUNDS", 2)


@pytest.mark.usefixtures("few_layers")
def test_every_format_is_measured_against_every_dense_engine() -> None:
    told: list[float] = []
    found = native.expect(lambda _, done: told.append(done))
    assert told == sorted(told)
    assert told[-1] == 1.0
    layer = Layer(1).title
    assert [(one.layer, one.engine) for one in found.dense] == [(layer, "native"), (layer, "onnxruntime")]
    forms = {(one.form, one.weights): [point.sparsity for point in one.points] for one in found.curves}
    assert forms == {
        ("offset_stream", UNSTRUCTURED): [0.5, 0.95],
        ("pair_stream", UNSTRUCTURED): [0.5, 0.95],
        ("block_stream", BLOCKS): [0.9],
    }
    assert all(point.us > 0 for one in found.curves for point in one.points)
    assert all(one.us > 0 for one in found.dense)
    text = shown(*expectation_tables(found))
    assert layer in text
    assert "block_stream" in text


def test_without_onnx_runtime_a_note_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found, notes = onnxruntime_dense.yardsticks(1)
    assert found == ()
    assert "not compared with ONNX Runtime" in notes[0]
    assert "pip install onnx onnxruntime" in notes[0]
    times = {(Layer(kernel), "dense"): 9.0 for kernel in native.KERNELS}
    assert [one.engine for one in native._dense(times)] == ["native", "native"]


def test_without_a_compiler_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"'no-such-compiler' was not found; install g\+\+ 11"):
        native.expect()
    part = next(part for part in software.examine() if part.name == "C++ compiler")
    assert "no-such-compiler" in part.problem
    assert "apt install g++" in part.install


def test_the_verdict_needs_a_gain_over_every_dense_engine() -> None:
    dense = (Dense("a", "native", 25.0), Dense("a", "onnxruntime", 15.0), Dense("b", "native", 1.0))
    curves = tuple(curve(layer, "f", UNSTRUCTURED, POINTS, dense) for layer in "ab")
    text = shown(*expectation_tables(Expectation("cpu", "quietly", dense, curves, ("a note",))))
    assert "a: unstructured zeros pay from sparsity 0.80 on (f)" in text
    assert "b: unstructured zeros gain nothing at the sparsities that were measured" in text
    assert "a note" in text
    assert re.search(r"f +unstructured +0\.60 +0\.80 +0\.50x +0\.75x +1\.50x", text)


def test_what_is_missing_comes_with_the_command_that_installs_it() -> None:
    parts = software.examine()
    assert len({part.name for part in parts}) == len(parts)
    for part in parts:
        assert part.purpose
        assert part.found or part.problem or part.install
        assert "\n" not in part.found + part.problem + part.install
        if not part.found:
            assert part.install
    assert all(part.name in shown(software_table(parts)) for part in parts)


def test_a_broken_package_is_a_problem_and_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(key: str) -> None:
        raise ArtifactError(f"{key} is installed and cannot be loaded")

    monkeypatch.setattr(software.trt, "find", broken)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(software.importlib.metadata, "version", lambda _: 1 / 0)
    parts = {part.name: part for part in software.examine()}
    assert "cannot be loaded" in parts["TensorRT"].problem
    assert parts["torch with CUDA"].install == "pip install torch"
    assert parts["torch"].problem.startswith("ZeroDivisionError")


def test_gpus_are_read_as_far_as_the_driver_describes_them() -> None:
    text = "NVIDIA H100 80GB HBM3, 9.0, 580.159.04, 81559\nTesla T4, 7.5, 535.1, [N/A]\nOld one\n\n"
    new, old, oldest = gpus.parse(text, torch_uses_it=True)
    assert (new.name, new.compute_capability, new.two_of_four) == ("NVIDIA H100 80GB HBM3", "9.0", True)
    assert (old.two_of_four, old.memory_mib) == (False, None)
    assert (oldest.compute_capability, oldest.two_of_four, oldest.driver) == ("unknown", None, "unknown")
    table = shown(gpu_table((new, old, oldest)))
    assert "81559 MiB" in table
    assert "unknown" in table


def test_no_gpu_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.examine() == ()
    fails = tmp_path / "nvidia-smi"
    fails.write_text("#!/bin/sh\nexit 9\n")
    fails.chmod(0o755)
    assert gpus.examine() == ()
    assert "no NVIDIA GPU" in str(gpu_table(()))


def test_the_native_part_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import compile.doctor.native, compile.doctor.software, st3.doctor"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
