"""The format csr: exact round trips, its kernel emulated on the CPU, compiled by NVRTC, and run on a GPU."""

from __future__ import annotations

import shutil
from pathlib import Path

import emulator
import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from unstructured_cases import check, check_replay, make_case, on_gpu, poisoned, ragged

from compile.cuda.formats import csr
from compile.cuda.formats.csr import CsrConfig
from compile.cuda.problem import ConvProblem
from runtime.cuda.csr import shared_bytes, source
from runtime.errors import UserError

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU, torch finds none")
SMALL = CsrConfig(pair=1, pieces=2, steps=2, outputs=4, warps=2, chunk=8)
CUTS = {
    "3x3, one picture": SMALL,
    "3x3, small pictures": CsrConfig(1, 4, 5, 2, 2, 4),
    "3x3, residual, relu": CsrConfig(1, 2, 1, 8, 1, 16),
    "3x3, dilation 2": CsrConfig(1, 4, 1, 2, 3, 8),
    "1x1": CsrConfig(1, 4, 2, 2, 2, 8),
}
TYPES = [("float32", 1), ("float16", 1), ("float16", 2), ("bfloat16", 2)]


def cut(name: str, pair: int) -> CsrConfig:
    """The configuration for a ragged problem."""
    return msgspec.structs.replace(CUTS.get(name, SMALL), pair=pair)


@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 20), st.sampled_from([1, 3]), st.sampled_from([1, 3])),
    density=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60)
def test_a_weight_comes_back_bit_for_bit(shape, density, dtype, seed):
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=random) * (torch.rand(shape, generator=random) < density)
    weight = weight.to(dtype)
    again = csr.unpack(csr.pack(weight), shape)
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    assert torch.equal(again.view(bits), weight.view(bits))


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ to run the kernel on the CPU")
@pytest.mark.parametrize(("dtype", "pair"), TYPES)
@pytest.mark.parametrize("name", list(ragged("float32")))
def test_the_kernel_is_right_on_a_cpu(name: str, dtype: str, pair: int, tmp_path: Path):
    problem = ragged(dtype)[name]
    case = make_case(problem, 0.15)
    module = csr.module(csr.pack(case.weight), case.bias, problem, cut(name, pair))
    y = poisoned(problem)
    emulator.run(module, case.x, case.residual, y, tmp_path)
    check(y, case)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ to run the kernel on the CPU")
@pytest.mark.parametrize("density", [0.0, 1.0])
def test_all_zeros_and_no_zeros(density: float, tmp_path: Path):
    problem = ragged("float32")["3x3, residual, relu"]
    case = make_case(problem, density)
    y = poisoned(problem)
    emulator.run(csr.module(csr.pack(case.weight), case.bias, problem, SMALL), case.x, case.residual, y, tmp_path)
    check(y, case)


def test_dead_input_channels_are_not_read():
    problem = ragged("float32")["3x3, residual, relu"]
    weight = make_case(problem, 1.0).weight
    weight[:, 4:36] = 0
    assert csr.live_packs(csr.pack(weight), problem).tolist() == [0, 9]


def test_what_is_compiled_ahead_is_what_the_module_asks_for(monkeypatch: pytest.MonkeyPatch):
    problem = ragged("float32")["3x3, residual, relu"]
    case = make_case(problem, 0.1)
    case.weight[:, 4:36] = 0
    compiled: list[str] = []
    monkeypatch.setattr("runtime.cuda.nvrtc.cubin", lambda code, arch: compiled.append(code))
    csr.build(case.weight, problem, SMALL, "sm_90")
    module = csr.module(csr.pack(case.weight), case.bias, problem, SMALL)
    assert compiled == [source(module.geometry)]


def test_the_fake_op_knows_shape_and_layout():
    problem = ragged("float32")["3x3, residual, relu"]
    case = make_case(problem, 0.1)
    module = csr.module(csr.pack(case.weight), case.bias, problem, SMALL)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        y = module(mode.from_tensor(case.x), mode.from_tensor(case.residual))
    assert y.shape == problem.output_shape
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_nvrtc_compiles_the_first_configuration(arch: str, dtype: str, tmp_path: Path, monkeypatch):
    from runtime.cuda.nvrtc import cubin as compile_cubin

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    problem = ConvProblem(4, 64, 14, 14, 64, (3, 3), padding=(1, 1), dtype=dtype)
    text = source(csr.geometry(problem, csr.configs(problem)[0], 16))
    try:
        cubin = compile_cubin(text, arch)
    except UserError as error:
        pytest.skip(str(error))
    assert cubin[:4] == b"\x7fELF"
    assert compile_cubin(text, arch) == cubin
    assert len(list(tmp_path.rglob("*.cubin"))) == 1


def test_configurations_fit_the_machine():
    for problem in (*ragged("float16").values(), *ragged("float32").values()):
        for config in csr.configs(problem):
            assert shared_bytes(csr.geometry(problem, config, -(-problem.channels // 4))) <= 227 * 1024


def test_refusals_say_why():
    problem = ConvProblem(1, 64, 8, 8, 64, (3, 3), padding=(1, 1), dtype="float32")
    thin = make_case(problem, 0.1).weight
    assert csr.reject(thin, problem) is None
    assert csr.reject(torch.ones(64, 64, 3, 3), problem) == (
        "density 1.000 is past 0.25, the most that is tried: dense float32 is faster"
    )
    grouped = msgspec.structs.replace(problem, groups=2)
    assert csr.reject(thin[:, :32], grouped) == "2 groups: the kernel brings all input channels to shared memory"
    curved = msgspec.structs.replace(problem, activation="gelu")
    assert csr.reject(thin, curved) == "activation gelu is not fused, identity and relu are"


REAL = {
    "56x56": ConvProblem(8, 64, 56, 56, 64, (3, 3), padding=(1, 1), activation="relu", dtype="float32"),
    "28x28, stride 2": ConvProblem(8, 128, 56, 56, 128, (3, 3), (2, 2), (1, 1), residual=True, dtype="float32"),
    "7x7": ConvProblem(32, 512, 7, 7, 512, (3, 3), padding=(1, 1), activation="relu", dtype="float32"),
    "1x1": ConvProblem(32, 2048, 7, 7, 512, activation="relu", dtype="float32"),
    "stem": ConvProblem(4, 3, 224, 224, 64, (7, 7), (2, 2), (3, 3), dtype="float32"),
}


@NEEDS_GPU
@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "pair"), TYPES)
@pytest.mark.parametrize("name", [*ragged("float32"), *REAL])
def test_the_kernel_is_right_on_a_gpu(name: str, dtype: str, pair: int):
    problem = msgspec.structs.replace({**ragged("float32"), **REAL}[name], dtype=dtype)
    case = on_gpu(make_case(problem, 0.1))
    real = [config for config in csr.configs(problem) if config.pair == pair][:1]
    for config in real if name in REAL else (cut(name, pair),):
        module = csr.module(csr.pack(case.weight), case.bias, problem, config).cuda()
        check(module(case.x, case.residual), case)


@NEEDS_GPU
@pytest.mark.gpu
def test_a_cuda_graph_replays_it_on_new_inputs():
    problem = REAL["7x7"]
    case = on_gpu(make_case(problem, 0.1))
    module = csr.module(csr.pack(case.weight), case.bias, problem, csr.configs(problem)[0]).cuda()
    check_replay(module, case)
