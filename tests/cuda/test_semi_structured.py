"""The format semi_structured: exact round trips, its kernels emulated on a CPU, and run on a GPU."""

from __future__ import annotations

import shutil
from itertools import product
from pathlib import Path

import emulator_sparse24 as emulator
import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparse24_cases import RAGGED, REAL, make_sparse, shape_of, two_of_four
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from unstructured_cases import Case, check, check_replay, on_gpu, poisoned

from compile.cuda.formats import semi_structured
from compile.cuda.formats.semi_structured import Config
from compile.cuda.problem import ConvProblem
from runtime.cuda import semi_structured_sm80 as ampere
from runtime.cuda import semi_structured_sm90 as hopper
from runtime.cuda.semi_structured import AMPERE, HOPPER
from runtime.cuda.semi_structured_sm80 import LAUNCHES, Launch80
from runtime.cuda.semi_structured_sm90 import Launch
from runtime.errors import UserError

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU, torch finds none")
TINY = (0.0, -0.0, 6e-8, 1e-40, float("inf"), float("-inf"), 1.0, -2.5)


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.int16)


@given(
    shape=st.tuples(st.integers(1, 150), st.integers(1, 140), st.sampled_from([1, 3]), st.sampled_from([1, 2])),
    kept=st.sampled_from([0, 1, 2]),
    dtype=st.sampled_from([torch.float16, torch.bfloat16]),
    seed=st.integers(0, 99),
)
@settings(max_examples=25)
def test_a_weight_comes_back_bit_for_bit(shape, kept, dtype, seed):
    random = torch.Generator().manual_seed(seed)
    weight = two_of_four(torch.randn(shape, generator=random).abs() + 0.1)
    weight = weight * (torch.rand(shape, generator=random) < kept / 2)
    chosen = torch.randint(len(TINY), shape, generator=random)
    odd = torch.rand(shape, generator=random) < 0.2
    weight = torch.where((weight != 0) & odd, torch.tensor(TINY)[chosen], weight).to(dtype)
    again = semi_structured.unpack(semi_structured.pack(weight), shape)
    assert again.dtype == dtype
    assert torch.equal(bits(again), bits(weight))


@pytest.mark.parametrize("zeros", [2, 3, 4])
def test_negative_zeros_keep_their_sign_where_there_is_room(zeros: int):
    weight = torch.full((64, 64, 1, 1), 3.0, dtype=torch.float16)
    weight.unflatten(1, (16, 4))[:, :, :zeros] = 0.0
    weight.unflatten(1, (16, 4))[:, :, 0] = -0.0
    again = semi_structured.unpack(semi_structured.pack(weight), weight.shape)
    assert torch.equal(again, weight)
    assert torch.equal(bits(again), bits(weight)) == (zeros > 2)


def test_blocks_hold_what_the_ptx_manual_says():
    weight = two_of_four(torch.randn(70, 130, 2, 3)).half()
    packed = semi_structured.pack(weight)["weight"].numpy()
    assert packed.shape == (2, 3, 6, 4608)
    dense = np.zeros((2, 64, 3, 64, 6), np.float16)
    for m, c, tap, row, kept in product(range(2), range(3), range(6), range(64), range(32)):
        block = packed[m, c, tap]
        half, k = divmod(kept, 16)  # of the 64 inputs, 32 to an instruction
        lane = row % 8 * 4 + half * 2 + k // 8
        word = int(block[4096:].view(np.uint32)[row // 16 * 32 + lane])
        place = word >> (row % 16 // 8 * 16 + k % 8 * 2) & 3
        value = block[:4096].view(np.float16)[kept // 8 * 512 + row * 8 + kept % 8]
        dense[m, row, c, half * 32 + k // 2 * 4 + place, tap] += value
    wanted = np.zeros((128, 192, 6), np.float16)
    wanted[:70, :130] = weight.reshape(70, 130, 6).numpy()
    assert np.array_equal(dense.reshape(128, 192, 6), wanted)


def test_refusals_say_why():
    problem = REAL["stage 3"]
    weight = make_sparse(problem).weight.float()
    assert semi_structured.reject(weight, problem) is None

    def refusal(weight: Tensor = weight, **changes: object) -> str | None:
        return semi_structured.reject(weight, msgspec.structs.replace(problem, **changes))

    assert refusal(dtype="float32") == "float32: sparse tensor cores take float16 and bfloat16"
    assert refusal(weight[:, :128], groups=2) == "2 groups: the kernel multiplies all input channels"
    assert refusal(activation="gelu") == "activation gelu is not fused, identity and relu are"
    assert refusal(weight[:, :3], channels=3) == (
        "3 input channels are not a multiple of 8, which loads of 16 bytes need"
    )
    assert refusal(torch.zeros(1, 8, 9, 9), channels=8, kernel=(9, 9)) == "a kernel of 9x9 has more than 64 taps"
    broken = weight.clone()
    broken[0, :3, 0, 0] = 1.0
    assert refusal(broken) == "not 2:4: 1 of 147456 groups of four inputs keep more than two"


def test_what_becomes_zero_in_the_dtype_counts_as_zero():
    weight = torch.full((8, 8, 1, 1), 1e-9)
    problem = ConvProblem(1, 8, 4, 4, 8)
    assert semi_structured.reject(weight, problem) is None
    assert "not 2:4" in str(semi_structured.reject(weight, msgspec.structs.replace(problem, dtype="bfloat16")))


def test_usable_macs_are_those_of_whole_blocks():
    problem = ConvProblem(2, 72, 5, 5, 70, (3, 3), padding=(1, 1))
    assert semi_structured.macs_usable(torch.zeros(problem.weight_shape), problem) == 50 * 128 * 128 * 9 // 2


EMULATED = {torch.float16: Launch80(2, 2, 2, 2, 3), torch.bfloat16: Launch80(1, 2, 4, 1, 4)}


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ to run the kernel on the CPU")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_ampere_kernel_is_right_on_a_cpu(dtype: str, tmp_path: Path):
    names = ("3x3, padding 3", "1x1, stride 2", "linear", "1x1") if dtype == "float16" else ("3x3", "5x3")
    launch = EMULATED[getattr(torch, dtype)]
    library = emulator.build(launch, getattr(torch, dtype), tmp_path)
    for name in names:
        problem = msgspec.structs.replace(RAGGED[name], dtype=dtype, batch=1 if "linear" not in name else 5)
        case, y = make_sparse(problem), poisoned(problem)
        packed = semi_structured.pack(case.weight)["weight"]
        relu = problem.activation == "relu"
        emulator.run(library, launch, case.x, packed, case.bias, case.residual, y, shape_of(problem), relu)
        check(y, case)


@pytest.mark.parametrize("name", list(RAGGED))
def test_fake_results_are_channels_last(name: str):
    problem = RAGGED[name]
    case = make_sparse(problem)
    module = layer(case, semi_structured.configs(problem)[0])
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        y = module(mode.from_tensor(case.x), None if case.residual is None else mode.from_tensor(case.residual))
    assert tuple(y.shape) == problem.output_shape
    assert y.dtype == torch.float16
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_torch_exports_a_layer():
    case = make_sparse(RAGGED["3x3, residual"])
    module = layer(case, semi_structured.configs(case.problem)[0])
    program = torch.export.export(module, (case.x, case.residual))
    ops = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert ops == [torch.ops.st3.semi_structured_conv2d.default]
    assert set(program.state_dict) == {"weight", "bias"}


def test_a_cpu_is_told_to_use_a_gpu():
    case = make_sparse(RAGGED["linear"])
    with pytest.raises(UserError, match="runs on an NVIDIA GPU, but its input is on cpu"):
        layer(case, Config(AMPERE, tuple(LAUNCHES[0])))(case.x)


def layer(case: Case, config: Config) -> torch.nn.Module:
    return semi_structured.module(semi_structured.pack(case.weight), case.bias, case.problem, config)


def launches(problem: ConvProblem) -> list[Config]:
    """Some of each kernel that this GPU runs."""
    found = [Config(AMPERE, tuple(launch)) for launch in LAUNCHES]
    if torch.cuda.get_device_capability() == (9, 0):
        found += [config for config in semi_structured.configs(problem) if config.kernel == HOPPER][:4]
    return found


@NEEDS_GPU
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", [*RAGGED, *REAL])
def test_kernels_are_right_on_a_gpu(name: str, dtype: str):
    """Each writes a poisoned result that lies between guards, all of it and nothing else."""
    problem = msgspec.structs.replace((RAGGED | REAL)[name], dtype=dtype)
    case = on_gpu(make_sparse(problem))
    weight, bias = semi_structured.pack(case.weight)["weight"].cuda(), case.bias.cuda()
    like = poisoned(problem).cuda()
    for config in launches(problem):
        guarded = torch.full((like.numel() + 4096,), 7.0, dtype=like.dtype, device="cuda")
        y = guarded[2048 : 2048 + like.numel()].as_strided(like.shape, like.stride(), 2048)
        y.fill_(float("nan"))
        given = (shape_of(problem), problem.activation == "relu")
        if config.kernel == AMPERE:
            ampere.run(case.x, weight, bias, case.residual, y, *given, Launch80(*config.launch))
        else:
            hopper.run(case.x, weight, bias, case.residual, y, *given, Launch(*config.launch))
        torch.cuda.synchronize()
        check(y, case)
        assert bool((guarded[:2048] == 7).all() and (guarded[2048 + like.numel() :] == 7).all()), config


@NEEDS_GPU
@pytest.mark.gpu
@pytest.mark.parametrize("name", ["3x3, residual", "linear"])
def test_the_op_replays_in_a_cuda_graph(name: str):
    case = on_gpu(make_sparse(RAGGED[name]))
    for config in launches(case.problem)[-3:]:
        module = layer(case, config).cuda()
        check_replay(module, case)


@NEEDS_GPU
@pytest.mark.gpu
def test_two_streams_at_once():
    case = on_gpu(make_sparse(REAL["stage 3"]))
    streams = [torch.cuda.Stream() for _ in range(2)]
    for config in launches(case.problem)[-3:]:
        module = layer(case, config).cuda()
        torch.cuda.synchronize()
        results = []
        for turn in range(6):
            with torch.cuda.stream(streams[turn % 2]):
                results.append(module(case.x))
        torch.cuda.synchronize()
        for y in results:
            check(y, case)


@NEEDS_GPU
@pytest.mark.gpu
def test_an_exported_layer_runs():
    case = on_gpu(make_sparse(RAGGED["3x3, residual"]))
    module = layer(case, launches(case.problem)[-1]).cuda()
    program = torch.export.export(module, (case.x, case.residual))
    check(program.module()(case.x, case.residual), case)
