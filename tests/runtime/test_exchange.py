"""Arrays go in and come out where they lie, and one engine serves one thread at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support import Compiler, prune_randomly
from torch import nn

from runtime.cuda import exchange
from runtime.engine import Engine, load
from runtime.engines.inductor import CudaEngine
from runtime.errors import UserError

SHAPE = (2, 1, 8, 8)
BACKENDS = ("native", "onnxruntime")


@pytest.fixture(scope="module", params=BACKENDS)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    compiler = Compiler(tmp_path_factory.mktemp(request.param))
    return compiler.artifact(prune_randomly(module, 0.6), SHAPE[1:], 2, backend=request.param).folder


@pytest.fixture
def engine(shared: Path) -> Engine:
    return load(shared)


def pictures(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


class Spy:
    """Writes down the addresses of all that an engine hands to the native side."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses: list[int] = []
        if engine.artifact.manifest.engine == "native":
            call = engine._call
            monkeypatch.setattr(engine, "_call", lambda f, n, a, b: (self._note(a, *b), call(f, n, a, b)))
        else:
            session = engine._session
            monkeypatch.setattr(engine, "_session", self)
            self.io_binding = lambda: Binding(session.io_binding(), self.addresses)
            self.run_with_iobinding = lambda binding: session.run_with_iobinding(binding.real)

    def _note(self, *arrays: np.ndarray) -> None:
        self.addresses += [array.ctypes.data for array in arrays]


class Binding:
    def __init__(self, real: object, addresses: list[int]) -> None:
        self.real, self.addresses = real, addresses

    def bind_input(self, *arguments: object) -> None:
        self.addresses.append(arguments[-1])
        self.real.bind_input(*arguments)

    def bind_output(self, *arguments: object) -> None:
        self.addresses.append(arguments[-1])
        self.real.bind_output(*arguments)


def test_the_engine_reads_and_writes_the_callers_memory(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    given, expected = pictures(), engine.run({"input": pictures()})["output"]
    spy = Spy(engine, monkeypatch)
    out = np.full((2, 3), np.nan, np.float32)
    answer = engine.run({"input": given}, out={"output": out})["output"]
    assert answer is out
    assert np.array_equal(out, expected)
    assert spy.addresses == [given.ctypes.data, out.ctypes.data]
    fresh = engine.run({"input": given})["output"]
    assert spy.addresses[2:] == [given.ctypes.data, fresh.ctypes.data]
    assert not np.may_share_memory(fresh, out)


def test_torch_goes_in_and_out_uncopied(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    given, out = torch.from_numpy(pictures()).clone(), torch.full((2, 3), torch.nan)
    expected = engine.run({"input": given.numpy()})["output"]
    spy = Spy(engine, monkeypatch)
    answer = engine.run({"input": given}, out={"output": out})["output"]
    assert spy.addresses == [given.data_ptr(), out.data_ptr()]
    assert np.array_equal(out.numpy(), expected)
    assert torch.from_dlpack(answer).data_ptr() == out.data_ptr()


def test_what_only_a_copy_makes_fit_is_copied_and_right(engine: Engine) -> None:
    given = pictures()
    expected = engine.run({"input": given})["output"]
    wide = np.zeros((2, 1, 8, 16), np.float32)
    wide[..., ::2] = given
    odd = np.zeros(given.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(SHAPE)
    odd[:] = given
    fixed = given.copy()
    fixed.flags.writeable = False
    assert not odd.flags.aligned
    for view in (wide[..., ::2], np.asfortranarray(given), odd, fixed):
        assert np.array_equal(engine.run({"input": view})["output"], expected)


def test_unfit_inputs_and_outputs_are_named(engine: Engine) -> None:
    given = pictures()
    whole = np.zeros(1000, np.float32)
    fixed = np.zeros((2, 3), np.float32)
    fixed.flags.writeable = False
    inside = whole[: given.size].reshape(SHAPE)
    for inputs, message in (
        ({"input": [1.0]}, "must be an array .* got list"),
        ({"input": given.astype(">f4")}, "must be float32 .* got >f4"),
        ({"input": torch.zeros(SHAPE, requires_grad=True)}, "cannot be read as an array .*detached"),
        ({"input": torch.zeros(SHAPE, device="meta")}, "cannot be read as an array"),
        ({1: given}, r"named 'input', got \['1'\]"),
    ):
        with pytest.raises(UserError, match=message):
            engine.run(inputs)
    for batch, out, message in (
        (given, {"y": fixed}, "one output named 'output', got"),
        (given, {"output": np.zeros((3, 3), np.float32)}, r"must be float32 \(2, 3\), got float32 \(3, 3\)"),
        (given, {"output": np.zeros((2, 3))}, "got float64"),
        (given, {"output": np.zeros((2, 6), np.float32)[:, ::2]}, "C-contiguous"),
        (given, {"output": fixed}, "writable"),
        (inside, {"output": whole[10:16].reshape(2, 3)}, "overlaps the input"),
    ):
        with pytest.raises(UserError, match=message):
            engine.run({"input": batch}, out=out)
    with pytest.raises(UserError, match="runs on the CPU; call run"):
        engine.run_on_device({"input": given})


def test_a_second_thread_is_refused_and_a_closed_engine_too(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    compute, inside, leave = engine._compute, threading.Event(), threading.Event()

    def slow(given: np.ndarray, result: np.ndarray) -> None:
        inside.set()
        leave.wait(30)
        compute(given, result)

    expected = engine.run({"input": pictures()})["output"]
    monkeypatch.setattr(engine, "_compute", slow)
    answers: list[np.ndarray] = []
    first = threading.Thread(target=lambda: answers.append(engine.run({"input": pictures()})["output"]))
    first.start()
    assert inside.wait(30)
    with pytest.raises(UserError, match="running in another thread; load the artifact once per thread"):
        engine.run({"input": pictures(1)})
    closing = threading.Thread(target=engine.close)
    closing.start()
    closing.join(0.1)
    assert closing.is_alive()  # it waits for the run
    leave.set()
    first.join(30)
    closing.join(30)
    assert np.array_equal(answers[0], expected)
    with pytest.raises(UserError, match="was closed"):
        engine.run({"input": pictures()})
    engine.close()  # a second time does nothing


class Replay:
    """Stands for a CUDA graph: doubles, in buffers of its own."""

    def __init__(self, function: Callable, example: torch.Tensor) -> None:
        self.input, self.outputs = torch.zeros(SHAPE), (torch.zeros((2, 3)),)

    def replay(self) -> None:
        self.outputs[0].copy_(2 * self.input[:, 0, 0, :3].reshape(2, 3))


class Foreign:
    """A tensor of another library, that knows nothing but DLPack."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self.exports = 0

    def __dlpack__(self, **options: object) -> object:
        self.exports += 1
        return self.tensor.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.tensor.__dlpack_device__()


class Stream:
    """What is put on a stream, in its order."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def wait_event(self, event: Event) -> None:
        self.calls.append(f"wait for {event.after}")


class Event:
    """Remembers the stream that it was last recorded on."""

    after: Stream | None = None

    def record(self, stream: Stream) -> None:
        self.after = stream


@pytest.fixture
def on_gpu(shared: Path, monkeypatch: pytest.MonkeyPatch) -> CudaEngine:
    """The engine of a GPU whose memory is the host's."""
    zeros, empty, stream = torch.zeros, torch.empty, Stream()
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr("runtime.cuda.replay.Replay", Replay)
    monkeypatch.setattr(torch, "zeros", lambda shape, device="", **rest: zeros(shape, **rest))
    monkeypatch.setattr(torch, "empty", lambda shape, pin_memory=False, **rest: empty(shape, **rest))
    return CudaEngine(load(shared).artifact, 1, lambda x: x)


def test_a_gpus_tensors_never_pass_through_the_host(on_gpu: CudaEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    given, out = torch.randn(SHAPE), torch.zeros((2, 3))
    monkeypatch.setattr(on_gpu, "_input", None)  # the pinned memory, without which the host's way would fail
    monkeypatch.setattr(on_gpu, "_outputs", None)
    for tensor in (given, Foreign(given)):
        answer = on_gpu.run_on_device({"input": tensor})["output"]
        assert torch.equal(answer, 2 * given[:, 0, 0, :3].reshape(2, 3))
        assert answer.data_ptr() != on_gpu._replay.outputs[0].data_ptr()  # the next run leaves it as it is
    foreign = Foreign(out)
    answer = on_gpu.run_on_device({"input": given}, out={"output": foreign})["output"]
    assert answer.data_ptr() == out.data_ptr()
    assert torch.equal(out, 2 * given[:, 0, 0, :3].reshape(2, 3))
    assert foreign.exports == 1


def test_a_run_on_another_stream_waits_for_the_one_before(on_gpu: CudaEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Stream(), Stream()
    for stream in (first, second):
        monkeypatch.setattr(torch.cuda, "current_stream", lambda stream=stream: stream)
        on_gpu.run_on_device({"input": torch.randn(SHAPE)})
    assert first.calls == ["wait for None"]
    assert second.calls == [f"wait for {first}"]  # the graph's buffers are read until then


def test_a_gpus_engine_names_what_does_not_fit(on_gpu: CudaEngine) -> None:
    given = torch.randn(SHAPE)
    for inputs, out, message in (
        ({"x": given}, None, "one input named 'input'"),
        ({"input": given[:1]}, None, r"must be float32 \(2, 1, 8, 8\), got float32 \(1, 1, 8, 8\)"),
        ({"input": given.bfloat16()}, None, "got bfloat16"),
        ({"input": given.to("meta")}, None, "lies on meta, this engine's memory is cpu"),
        ({"input": 3}, None, "must be a tensor that has __dlpack__, got int"),
        ({"input": given}, {"y": given}, "one output named 'output'"),
        ({"input": given}, {"output": given}, r"output 'output' must be float32 \(2, 3\), got float32 \(2, 1, 8, 8\)"),
    ):
        with pytest.raises(UserError, match=message):
            on_gpu.run_on_device(inputs, out)
    assert exchange.device_input(on_gpu, {"input": given}, given.device).data_ptr() == given.data_ptr()
