"""The engine's buffers and calls, with a stand-in for the GPU; a real plan runs on machines that have one."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import torch
from trt_stubs import ERROR, gpu, install, stub

from runtime.artifact import TensorSpec
from runtime.engines import tensorrt
from runtime.errors import ArtifactError, UserError
from runtime.trt import PlanInfo


class Context:
    """Doubles its input, in the memory whose addresses it was given."""

    def __init__(self, capturable: bool | None = None) -> None:
        self.addresses: dict[str, int] = {}
        self.runs = 0
        self.works = True
        if capturable is not None:
            self.is_stream_capturable = lambda stream: capturable

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        self.runs += 1
        pictures, answers = (
            np.ctypeslib.as_array(ctypes.cast(self.addresses[name], ctypes.POINTER(ctypes.c_float)), (2, 3))
            for name in ("picture", "answer")
        )
        answers[:] = 2 * pictures
        return self.works


class PlanEngine:
    """One tensor in, one out, of shapes that the manifest has otherwise: a plan keeps (B, N, 1, 1)."""

    def __init__(self, context: Context, shape: tuple[int, ...] = (2, 3, 1, 1)) -> None:
        self.context, self.shape = context, shape
        self.num_io_tensors = 2

    def get_tensor_name(self, index: int) -> str:
        return ("answer", "picture")[index]  # in no order

    def get_tensor_mode(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name="INPUT" if name == "picture" else "OUTPUT")

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape

    def get_tensor_dtype(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name="FLOAT")

    def create_execution_context(self) -> Context:
        return self.context


class Stream:
    cuda_stream = 7

    def synchronize(self) -> None:
        pass


@pytest.fixture
def artifact(tmp_path: Path) -> SimpleNamespace:
    (tmp_path / "model.plan").write_bytes(b"plan")
    info = PlanInfo("tensorrt", "10.15.1.29", "sm_90", "NVIDIA H100")
    (tmp_path / "plan.json").write_bytes(msgspec.json.encode(info))
    ends = {name: TensorSpec(name, (2, 3), "float32") for name in ("input", "output")}
    plan = np.frombuffer(b"plan", np.uint8)
    manifest = SimpleNamespace(**ends, outputs=(ends["output"],))
    return SimpleNamespace(payload=tmp_path, manifest=manifest, read=lambda name: plan)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Device and pinned memory are ordinary memory; there is one stream, on which everything happens at once."""
    empty = torch.empty
    gpu(monkeypatch, (9, 0))
    monkeypatch.setattr(torch, "empty", lambda shape, dtype, pin_memory=False, device="": empty(shape, dtype=dtype))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())


def test_it_runs_in_the_buffers_and_each_answer_stays(
    artifact: SimpleNamespace, device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = Context(capturable=False)
    install(monkeypatch, tensorrt=stub(engine=PlanEngine(context)))
    engine = tensorrt.load(artifact, 1)
    assert not engine.captured
    warm = context.runs
    assert warm >= 1
    pictures = np.random.default_rng(0).standard_normal((2, 2, 3)).astype(np.float32)
    answers = [engine.run({"input": batch})["output"] for batch in pictures]
    assert context.runs == warm + 2
    for answer, batch in zip(answers, pictures, strict=True):
        np.testing.assert_array_equal(answer, 2 * batch)
    with pytest.raises(UserError, match=r"input 'input' must be float32 \(2, 3\), got float32 \(1, 3\)"):
        engine.run({"input": pictures[0, :1]})
    context.works = False
    with pytest.raises(ArtifactError, match=r"^TensorRT could not run .*model\.plan; compile it again$"):
        engine.run({"input": pictures[0]})
    engine.close()


def test_where_it_can_be_captured_a_run_is_one_replay(
    artifact: SimpleNamespace, device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, replays = Context(), []

    @contextlib.contextmanager
    def capture(graph: object, stream: Stream) -> object:
        before = context.runs
        yield
        assert context.runs == before + 1  # the network is captured, once

    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: replays.append(1)))
    monkeypatch.setattr(torch.cuda, "graph", capture)
    install(monkeypatch, tensorrt=stub(engine=PlanEngine(context)))
    engine = tensorrt.load(artifact, 1)
    assert engine.captured
    before = context.runs
    engine.run({"input": np.ones((2, 3), np.float32)})
    assert (len(replays), context.runs) == (1, before)


class TwoEnds:
    """A plan that writes what it reads, doubled and trebled, under the names that it has."""

    def __init__(self, names: tuple[str, str], shapes: tuple[tuple[int, ...], ...] = ((2, 3), (2, 3))) -> None:
        self.names, self.shapes = (names[0], "picture", names[1]), (shapes[0], (2, 3), shapes[1])
        self.num_io_tensors, self.addresses = 3, dict[str, int]()
        self.get_tensor_name, self.set_tensor_address = self.names.__getitem__, self.addresses.__setitem__

    def get_tensor_mode(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name="INPUT" if name == "picture" else "OUTPUT")

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[self.names.index(name)]

    def get_tensor_dtype(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name="FLOAT")

    def create_execution_context(self) -> TwoEnds:
        return self

    def is_stream_capturable(self, stream: int) -> bool:
        return False

    def execute_async_v3(self, stream: int) -> bool:
        first, picture, second = (
            np.ctypeslib.as_array(ctypes.cast(self.addresses[name], ctypes.POINTER(ctypes.c_float)), (2, 3))
            for name in self.names
        )
        first[:], second[:] = 2 * picture, 3 * picture
        return True


@pytest.mark.parametrize(
    ("names", "twice"),
    [
        (("double", "treble"), "double"),  # as the manifest has them, in its order
        (("treble", "double"), "treble"),  # in another order: the names count
        (("output0", "output1"), "double"),  # names of its own: the order counts
    ],
)
def test_several_outputs_go_where_their_names_say(
    names: tuple[str, str], twice: str, artifact: SimpleNamespace, device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact.manifest.outputs = tuple(TensorSpec(name, (2, 3), "float32") for name in ("double", "treble"))
    install(monkeypatch, tensorrt=stub(engine=TwoEnds(names)))
    engine = tensorrt.load(artifact, 1)
    given = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    answers = engine.run({"input": given})
    assert list(answers) == ["double", "treble"]
    for name, answer in answers.items():
        np.testing.assert_array_equal(answer, (2 if name == twice else 3) * given)
    install(monkeypatch, tensorrt=stub(engine=PlanEngine(Context())))
    with pytest.raises(ArtifactError, match=r"the outputs \['answer'\], and the manifest one input and 2 outputs"):
        tensorrt.load(artifact, 1)


def test_a_plan_that_cannot_be_loaded(artifact: SimpleNamespace, device: None, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tensorrt=stub(says=[(ERROR, "Magic tag does not match")]))
    with pytest.raises(
        ArtifactError, match=r"^TensorRT 10\.15\.1\.29 cannot load .*model\.plan: Magic tag does not match; compile the"
    ):
        tensorrt.load(artifact, 1)


def test_a_plan_of_other_shapes(artifact: SimpleNamespace, device: None, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tensorrt=stub(engine=PlanEngine(Context(), (4, 3))))
    with pytest.raises(
        ArtifactError, match=r"has a tensor 'picture' of 12 FLOAT, and the manifest says 6 FLOAT; compile"
    ):
        tensorrt.load(artifact, 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_real_plan_on_this_gpu(tmp_path: Path) -> None:
    """TensorRT, a GPU and a 2:4 network: golden outputs within the tolerance, one CUDA graph, sparse layers named."""
    pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    from support import write_checkpoint

    from compile.lower import lower
    from runtime.check import replay
    from runtime.engine import load

    checkpoint = write_checkpoint(tmp_path / "sparse", "st3", 0.5, "2:4")
    folder = lower(checkpoint, tmp_path, "tensorrt", (8,), 1, "native", device="cuda", dtype="float16")
    engine = load(folder)
    assert isinstance(engine, tensorrt.TensorRtEngine)
    assert engine.captured
    result = replay(engine)
    assert result.passed, result
