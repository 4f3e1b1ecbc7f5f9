"""The format cusparselt: what it packs and refuses, its op's shapes, and its products where there is a GPU."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparse24_cases import make_sparse, two_of_four
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from unstructured_cases import Case, check, check_replay, on_gpu

from compile.cuda.formats import cusparselt
from compile.cuda.problem import ConvProblem
from runtime.errors import UserError

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU, torch finds none")
PROBLEMS = {
    "1x1, 7x7": ConvProblem(8, 2048, 7, 7, 512, activation="relu"),
    "1x1, 14x14, residual": ConvProblem(4, 256, 14, 14, 1024, activation="relu", residual=True),
    "1x1, 13x5, bias only": ConvProblem(8, 80, 13, 5, 48),
    "1x1, residual only": ConvProblem(2, 64, 6, 6, 32, residual=True),
    "linear": ConvProblem(200, 768, 1, 1, 3072),
}


@given(
    shape=st.tuples(st.integers(1, 50), st.integers(1, 70)),
    dtype=st.sampled_from([torch.float16, torch.bfloat16]),
    seed=st.integers(0, 99),
)
@settings(max_examples=20)
def test_a_weight_comes_back_bit_for_bit(shape, dtype, seed):
    weight = torch.randn(*shape, 1, 1, generator=torch.Generator().manual_seed(seed))
    weight = two_of_four(weight).to(dtype)
    weight[:, ::5] *= -0.0
    buffers = cusparselt.pack(weight)
    again = cusparselt.unpack(buffers, weight.shape)
    assert again.dtype == dtype
    assert torch.equal(again.view(torch.int16), weight.view(torch.int16))
    assert buffers["weight"].data_ptr() != weight.data_ptr()


def test_only_two_of_four_are_packed():
    with pytest.raises(AssertionError):
        cusparselt.pack(torch.ones(16, 16, 1, 1).half())


def test_refusals_say_why():
    problem = PROBLEMS["1x1, 7x7"]
    weight = make_sparse(problem).weight.float()
    assert cusparselt.reject(weight, problem) is None

    def refusal(weight: Tensor = weight, **changes: object) -> str | None:
        return cusparselt.reject(weight, msgspec.structs.replace(problem, **changes))

    matrices = "cuSPARSELt multiplies matrices: only a 1x1 convolution of stride 1, without padding or groups, is one"
    assert refusal(dtype="float32") == "float32: torch's cuSPARSELt takes float16 and bfloat16"
    assert refusal(kernel=(3, 3)) == refusal(stride=(2, 2)) == refusal(groups=2) == matrices
    assert refusal(activation="silu") == "activation silu is not in the op, identity and relu are"
    assert refusal(channels=72) == "72 input channels are not a multiple of 16"
    assert refusal(outputs=1000) == "1000 outputs are not a multiple of 16"
    assert refusal(batch=1) == "49 rows are not a multiple of 8"
    assert "not 2:4" in str(refusal(torch.ones_like(weight)))


def test_half_of_all_macs_are_done():
    problem = PROBLEMS["linear"]
    assert cusparselt.macs_usable(torch.empty(0), problem) == 200 * 768 * 3072 // 2


@pytest.mark.parametrize("name", list(PROBLEMS))
def test_fake_results_are_channels_last(name: str):
    case = make_sparse(PROBLEMS[name])
    module = layer(case)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        residual = None if case.residual is None else mode.from_tensor(case.residual)
        y = module(mode.from_tensor(case.x), residual)
    assert tuple(y.shape) == case.problem.output_shape
    assert y.dtype == torch.float16
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_torch_exports_a_layer():
    case = make_sparse(PROBLEMS["1x1, residual only"])
    program = torch.export.export(layer(case), (case.x, case.residual))
    ops = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert ops == [torch.ops.st3.cusparselt_linear.default]
    assert set(program.state_dict) == {"weight", "bias"}


def test_a_cpu_is_told_to_use_a_gpu():
    case = make_sparse(PROBLEMS["linear"])
    with pytest.raises(UserError, match="runs on an NVIDIA GPU, but its input is on cpu"):
        layer(case)(case.x)


class Failing:
    """In place of ``subprocess.run``: ends like a process whose GPU failed."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str], **options: object) -> None:
        self.commands.append(command)
        said = "Traceback (most recent call last):\nRuntimeError: CUDA error: an illegal instruction\nmore\n"
        raise subprocess.CalledProcessError(1, command, stderr=said)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Failing]:
    run = Failing()
    monkeypatch.setattr(cusparselt.subprocess, "run", run)
    monkeypatch.setattr(cusparselt, "_failures", [])
    cusparselt.probe.cache_clear()
    yield run
    cusparselt.probe.cache_clear()


def test_a_library_that_fails_is_tried_once(failing: Failing, monkeypatch: pytest.MonkeyPatch):
    problem, other = PROBLEMS["1x1, 7x7"], PROBLEMS["linear"]
    reason = "cuSPARSELt fails on this GPU: RuntimeError: CUDA error: an illegal instruction"
    assert cusparselt.probe(problem) == reason
    assert failing.commands[0][-4:] == ["512", "2048", "392", "float16"]
    assert cusparselt.probe(other) == cusparselt.probe(problem) == reason
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cusparselt, "is_available", lambda: True)
    assert cusparselt.reject(make_sparse(other).weight, other) == reason
    assert len(failing.commands) == 1


@pytest.mark.parametrize(("printed", "wanted"), [("noise\n[3,2,1,9]\n", (3, 2, 1, 9)), ("", None), ("[3]\n", None)])
def test_an_answer_is_the_last_line(
    printed: str, wanted: tuple[int, ...] | None, failing: Failing, monkeypatch: pytest.MonkeyPatch
):
    done = subprocess.CompletedProcess([], 0, stdout=printed, stderr="")
    monkeypatch.setattr(cusparselt.subprocess, "run", lambda *_, **__: done)
    found = cusparselt.probe(PROBLEMS["linear"])
    assert found == wanted if wanted else str(found).startswith("cuSPARSELt fails on this GPU: ")


def need(problem: ConvProblem) -> None:
    """Skip where the library fails on this GPU."""
    found = cusparselt.probe(problem)
    if isinstance(found, str):
        pytest.skip(found)


def layer(case: Case, config: cusparselt.Config = cusparselt.DEFAULT) -> torch.nn.Module:
    return cusparselt.module(cusparselt.pack(case.weight), case.bias, case.problem, config)


@NEEDS_GPU
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", list(PROBLEMS))
def test_products_are_right_on_a_gpu(name: str, dtype: str):
    problem = msgspec.structs.replace(PROBLEMS[name], dtype=dtype)
    need(problem)
    case = on_gpu(make_sparse(problem))
    found = cusparselt.configs(problem)
    assert cusparselt.DEFAULT in found
    for config in found[:3]:
        module = layer(case, config).cuda().cuda()
        assert module.weight.numel() == problem.outputs * problem.channels * 9 // 16
        poison = torch.full(problem.output_shape, float("nan"), device="cuda")  # where the result may come to lie
        del poison
        y = module(case.x, case.residual)
        check(y, case)
        assert y.is_contiguous(memory_format=torch.channels_last)


@NEEDS_GPU
@pytest.mark.gpu
@pytest.mark.parametrize("name", ["1x1, 7x7", "1x1, 14x14, residual"])
def test_the_op_replays_in_a_cuda_graph(name: str):
    need(PROBLEMS[name])
    case = on_gpu(make_sparse(PROBLEMS[name]))
    module = layer(case, cusparselt.configs(case.problem)[0]).cuda()
    check_replay(module, case)


@NEEDS_GPU
@pytest.mark.gpu
def test_an_exported_layer_runs():
    need(PROBLEMS["1x1, 7x7"])
    case = on_gpu(make_sparse(PROBLEMS["1x1, 7x7"]))
    program = torch.export.export(layer(case).cuda(), (case.x,))
    check(program.module()(case.x), case)
