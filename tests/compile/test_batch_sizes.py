"""Several batch sizes in one native artifact, and any number of pictures through it."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from support import Compiler, prune_randomly, write_checkpoint
from torch import nn

from compile.backends.native import merged_formats
from runtime.artifact import Artifact
from runtime.check import replay
from runtime.engine import load
from runtime.engines.native import NativeEngine
from runtime.errors import ArtifactError, UserError
from runtime.inspect import render
from st3.cli import main

SHAPE = (2, 11, 9)
SIZES = (1, 16)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 9, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(9, 5),
    )
    return prune_randomly(module, 0.4)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "sparse", "st3", 0.9)


@pytest.fixture(scope="module")
def both(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return Compiler(tmp_path_factory.mktemp("both")).artifact(network, SHAPE, SIZES)


def native(artifact: Artifact, threads: int = 1) -> NativeEngine:
    engine = load(artifact.folder, threads)
    assert isinstance(engine, NativeEngine)
    return engine


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize("count", [0, 1, 3, 16, 17, 37])
@pytest.mark.parametrize("threads", [1, 3])
def test_any_number_of_pictures_agrees_with_torch(network: nn.Module, both: Artifact, count: int, threads: int) -> None:
    engine, given = native(both, threads), pictures(count)
    with torch.no_grad():
        expected = network(torch.from_numpy(given)).numpy()
    result = engine.run({"input": given})["output"]
    assert result.shape == (count, 5)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    # a picture's answer is that of the batch that it fell into, bit for bit
    for start in range(0, count // 16 * 16, 16):
        alone = engine.run({"input": given[start : start + 16]})["output"]
        assert np.array_equal(result[start : start + 16], alone)
    for row in range(count // 16 * 16, count):
        assert np.array_equal(result[row], engine.run({"input": given[row : row + 1]})["output"][0])


def test_a_size_takes_memory_when_it_is_first_needed(both: Artifact) -> None:
    engine = native(both)
    assert [engine._networks[size]._handle != 0 for size in SIZES] == [True, False]
    engine.run({"input": pictures(3)})
    assert [engine._networks[size]._handle != 0 for size in SIZES] == [True, False]
    engine.run({"input": pictures(17)})
    assert [engine._networks[size]._handle != 0 for size in SIZES] == [True, True]
    engine.close()
    assert [engine._networks[size]._handle != 0 for size in SIZES] == [False, False]


def test_the_check_runs_every_size(both: Artifact) -> None:
    engine = native(both)
    ran = []
    run = engine._call
    engine._call = lambda function, size, *rest: (ran.append(size), run(function, size, *rest))  # type: ignore[assignment,func-returns-value]
    result = replay(engine)
    assert result.passed
    assert 0 < result.error < 1e-5
    assert ran == [1, 16]
    assert "batch 1 and 16" in str(render(both.folder)[1])


def test_a_profile_is_of_one_compiled_size(both: Artifact) -> None:
    engine = native(both)
    for size in SIZES:
        macs = sum(entry.step.macs for entry in engine.profile({"input": pictures(size)}))
        assert macs == size * sum(entry.step.macs for entry in engine.profile({"input": pictures(1)}))
    with pytest.raises(UserError, match=r"compiled size \(16, 1\), got 5 pictures"):
        engine.profile({"input": pictures(5)})


def test_two_threads_on_one_engine_answer_right_or_refuse(both: Artifact) -> None:
    engine = native(both, threads=2)
    given = pictures(37)
    expected = {count: engine.run({"input": given[:count]})["output"] for count in (1, 16, 37)}
    outcomes = []

    def call(index: int) -> None:
        count = (1, 16, 37)[index % 3]
        try:
            outcomes.append(np.array_equal(engine.run({"input": given[:count]})["output"], expected[count]))
        except UserError as error:
            outcomes.append("running in another thread" in str(error))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(call, range(300)))
    assert len(outcomes) == 300
    assert all(outcomes)
    # and afterwards it is free again
    assert np.array_equal(engine.run({"input": given})["output"], expected[37])


def test_an_engine_is_not_closed_under_a_run(both: Artifact) -> None:
    given = pictures(160)

    def run(engine: NativeEngine, started: threading.Event) -> object:
        started.set()
        try:
            return engine.run({"input": given})["output"].shape
        except UserError as error:
            return "closed" if "closed" in str(error) else str(error)

    with ThreadPoolExecutor(1) as pool:
        for _ in range(20):
            engine, started = native(both, threads=2), threading.Event()
            answer = pool.submit(run, engine, started)
            started.wait()
            engine.close()
            assert answer.result() in ((160, 5), "closed")
            with pytest.raises(UserError, match="closed"):
                engine.run({"input": given})


def test_engines_of_one_artifact_and_of_two_share_nothing(network: nn.Module, both: Artifact, tmp_path: Path) -> None:
    other = Compiler(tmp_path).artifact(prune_randomly(nn.Sequential(nn.Conv2d(2, 3, 3)), 0.9), SHAPE, (2, 3))
    engines = [native(both, 2), native(both), native(other), native(other, 2)]
    given = pictures(21)
    before = [engine.run({"input": given})["output"] for engine in engines]
    assert np.array_equal(before[0], before[1])
    assert np.array_equal(before[2], before[3])
    with ThreadPoolExecutor(4) as pool:
        runs = [
            pool.submit(lambda engine=engine: [engine.run({"input": given})["output"] for _ in range(40)])
            for engine in engines
        ]
    for run, expected in zip(runs, before, strict=True):
        assert all(np.array_equal(result, expected) for result in run.result())
    engines[0].close()
    assert np.array_equal(engines[1].run({"input": given})["output"], before[1])


def test_too_many_threads_are_refused_when_a_size_is_opened(both: Artifact) -> None:
    with pytest.raises(ArtifactError, match=r"payload/b1/network\.so cannot be opened: not enough memory or threads"):
        load(both.folder, threads=2_000_000_000)


def test_formats_that_depend_on_the_batch_size_are_told_apart() -> None:
    same, a, b = ("dense", "past break-even"), ("dense", "measured: 1 us"), ("offset_stream", "measured: 2 us")
    assert merged_formats({1: {"x": same}, 16: {"x": same}}) == {"x": same}
    merged = merged_formats({1: {"x": a}, 16: {"x": b}})
    assert merged == {
        "x": ("batch 1: dense, batch 16: offset_stream", "batch 1: measured: 1 us, batch 16: measured: 2 us")
    }


def test_the_command_makes_one_artifact_of_a_list(checkpoint: Path, tmp_path: Path) -> None:
    arguments = ["compile", str(checkpoint), "--out", str(tmp_path), "--backend", "native", "--no-tune", "--json"]
    result = CliRunner().invoke(main, [*arguments, "--batch-size", "4,1", "--batch-size", "2"])
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert [Path(entry["artifact"]).name for entry in made] == ["native-b1-4", "native-b2"]
    assert [entry["batch_sizes"] for entry in made] == [[1, 4], [2]]
    folder = tmp_path / checkpoint.name / "native-b1-4"
    assert sorted(path.name for path in (folder / "payload").iterdir()) == ["b1", "b4"]
    assert replay(load(folder)).passed
    again = CliRunner().invoke(main, [*arguments, "--batch-size", "1,4"])
    assert json.loads(again.stdout)[0]["fresh"] is True


@pytest.mark.parametrize("backend", ["onnxruntime", "inductor"])
def test_a_backend_of_one_batch_size_refuses_a_list(checkpoint: Path, tmp_path: Path, backend: str) -> None:
    arguments = ["compile", str(checkpoint), "--out", str(tmp_path), "--backend", "native", "--backend", backend]
    result = CliRunner().invoke(main, [*arguments, "--batch-size", "1,16"])
    assert result.exit_code == 2
    assert f"of the backend {backend} has one batch size, got 1,16" in result.output
    assert "--batch-size 1 --batch-size 16" in result.output
    assert not list(tmp_path.iterdir())  # said before anything was compiled
