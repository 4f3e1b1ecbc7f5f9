"""The vector activations against torch in double precision, over all kinds of floats, on each instruction set."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import RUNNABLE
from numpy.typing import NDArray

from compile.native.isa import ISAS
from compile.native.toolchain import build_library

Function = Callable[[torch.Tensor], torch.Tensor]
FUNCTIONS: dict[str, tuple[str, Function]] = {
    "exp": ("exp(x)", torch.exp),
    "erf": ("erf(x)", torch.erf),
    "relu": ("activate<RELU>(x)", F.relu),
    "relu6": ("activate<RELU6>(x)", F.relu6),
    "silu": ("activate<SILU>(x)", F.silu),
    "hardswish": ("activate<HARDSWISH>(x)", F.hardswish),
    "sigmoid": ("activate<SIGMOID>(x)", torch.sigmoid),
    "hardsigmoid": ("activate<HARDSIGMOID>(x)", F.hardsigmoid),
    "gelu": ("activate<GELU>(x)", F.gelu),
    "gelu_tanh": ("activate<GELU_TANH>(x)", lambda x: F.gelu(x, approximate="tanh")),
    "tanh": ("activate<TANH>(x)", torch.tanh),
}
# Largest error relative to the result, for functions without cancellation. The others are held to the input's size:
# where x sigmoid(x) and the like are tiny, torch's own float32 has as few digits.
RELATIVE = {"exp": 2e-7, "erf": 5e-7, "relu": 0.0, "relu6": 0.0, "sigmoid": 3e-7, "hardsigmoid": 3e-7, "tanh": 3e-7}
OF_INPUT = 4e-7


def floats() -> NDArray[np.float32]:
    """Every 9973rd float, denormal ones, infinities and NaN among them, and the range where something happens."""
    bits = np.arange(0, 2**32, 9973, dtype=np.uint64).astype(np.uint32).view(np.float32)
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan], np.float32)
    return np.concatenate([bits, np.linspace(-110, 95, 200_001, dtype=np.float32), special])


def source(lanes: int) -> str:
    loops = "".join(
        f"ST3 void {name}(const char* from, char* to, long vectors) {{\n"
        f"  for (long i = 0; i < vectors; i++) {{\n    const vec x = load(from + i * VECTOR);\n"
        f"    store(to + i * VECTOR, {text});\n  }}\n}}\n"
        for name, (text, _) in FUNCTIONS.items()
    )
    head = f'#define ST3_LANES {lanes}\n#include "activation.h"\nusing namespace st3;\n'
    return f'{head}#define ST3 extern "C" __attribute__((visibility("default")))\nnamespace st3 {{\n{loops}}}\n'


@pytest.fixture(scope="module", params=RUNNABLE)
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[ctypes.CDLL, int]:
    isa = ISAS[request.param]
    folder: Path = tmp_path_factory.mktemp(isa.name)
    (folder / "activations.cpp").write_text(source(isa.lanes))
    build_library([folder / "activations.cpp"], folder / "activations.so", isa)
    assert b"libm.so" not in (folder / "activations.so").read_bytes()
    return ctypes.CDLL(str(folder / "activations.so")), isa.lanes


def aligned(length: int) -> NDArray[np.float32]:
    memory = np.zeros(length + 16, np.float32)
    start = -memory.ctypes.data % 64 // 4
    return memory[start : start + length]


def apply(library: tuple[ctypes.CDLL, int], name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
    lanes = library[1]
    vectors = -(-len(values) // lanes)
    inputs, outputs = aligned(vectors * lanes), aligned(vectors * lanes)
    inputs[: len(values)] = values
    pointers = (ctypes.c_void_p(array.ctypes.data) for array in (inputs, outputs))
    getattr(library[0], name)(*pointers, ctypes.c_long(vectors))
    return outputs[: len(values)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_activations_are_those_of_torch(library: tuple[ctypes.CDLL, int], name: str) -> None:
    values = floats()
    result = apply(library, name, values)
    exact = FUNCTIONS[name][1](torch.from_numpy(values).double()).numpy()
    with np.errstate(over="ignore"):
        rounded = exact.astype(np.float32)
    finite = np.isfinite(values)
    # a finite number has no NaN for an answer, and infinity only where float32 ends
    assert not np.isnan(result[finite]).any()
    assert np.array_equal(np.isinf(result[finite]), np.isinf(rounded[finite]))
    both = finite & np.isfinite(result) & np.isfinite(rounded)
    error = np.abs(result[both].astype(np.float64) - exact[both])
    if name in RELATIVE:
        normal = np.abs(exact[both]) > np.finfo(np.float32).tiny
        assert (error[normal] <= RELATIVE[name] * np.abs(exact[both][normal])).all()
        assert (error[~normal] <= np.finfo(np.float32).tiny).all()
    else:
        assert (error <= OF_INPUT * np.abs(values[both]) + 1e-37).all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_infinities_and_missing_numbers_go_through(library: tuple[ctypes.CDLL, int], name: str) -> None:
    values = np.array([np.nan, np.inf, -np.inf], np.float32)
    expected = FUNCTIONS[name][1](torch.from_numpy(values)).numpy()
    if name == "gelu":
        expected[1] = np.inf  # torch's float32 gelu answers NaN to infinity, its double one infinity
    np.testing.assert_array_equal(apply(library, name, values), expected)
