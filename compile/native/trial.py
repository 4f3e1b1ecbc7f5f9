"""Runs a generated network where it was compiled: the tuner's stop watch, and its answers."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compile.native.plan import Plan
from runtime.abi import ABI_VERSION, SIGNATURES


def open_library(path: Path) -> ctypes.CDLL:
    """Load a library that this process has just built."""
    library = ctypes.CDLL(str(path))
    for name, (result, arguments) in SIGNATURES[ABI_VERSION].items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def aligned(weights: bytes) -> NDArray[np.uint8]:
    """A copy of a weight file at a multiple of 64 bytes, which kernels that load whole vectors of weights need."""
    room = np.empty(len(weights) + 63, np.uint8)
    start = -room.ctypes.data % 64
    content = room[start : start + len(weights)]
    content[:] = np.frombuffer(weights, np.uint8)
    return content


def pointers(outputs: Sequence[NDArray[np.float32]]) -> ctypes.Array[ctypes.c_void_p]:
    """What a library's functions take for its outputs; the arrays must live as long."""
    return (ctypes.c_void_p * len(outputs))(*(output.ctypes.data for output in outputs))


def answers(
    library: ctypes.CDLL, weights: bytes, plan: Plan, threads: int, inputs: NDArray[np.float32]
) -> list[NDArray[np.float32]]:
    """Every output ``(batch, C, H, W)`` for the first of some pictures ``(N, C, H, W)``, as many as a batch has."""
    batch_size = plan.images * plan.groups
    batch = np.ascontiguousarray(inputs[:batch_size], np.float32)
    outputs = [np.empty((batch_size, *plan.graph.shapes[value]), np.float32) for value in plan.graph.outputs]
    with _opened(library, weights, threads) as handle:
        library.st3_run(handle, batch.ctypes.data, pointers(outputs))
    return outputs


def step_times(library: ctypes.CDLL, weights: bytes, plan: Plan, threads: int, repeats: int) -> NDArray[np.float64]:
    """Shortest time of each step in ms, over ``repeats`` runs after one to warm up.

    The shortest, because what disturbs a run only ever makes it longer.
    """
    batch_size = plan.images * plan.groups
    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((batch_size, *plan.graph.shapes[plan.graph.input])).astype(np.float32)
    outputs = [np.empty((batch_size, *plan.graph.shapes[value]), np.float32) for value in plan.graph.outputs]
    runs = []
    with _opened(library, weights, threads) as handle:
        for _ in range(repeats + 1):
            step_ns = np.zeros(library.st3_step_count(), np.uint64)
            library.st3_profile(handle, inputs.ctypes.data, pointers(outputs), step_ns.ctypes.data)
            runs.append(step_ns / 1e6)
    fastest: NDArray[np.float64] = np.min(runs[1:], axis=0)
    return fastest


@contextlib.contextmanager
def _opened(library: ctypes.CDLL, weights: bytes, threads: int) -> Iterator[int]:
    """A network on its weights, for as long."""
    error = ctypes.create_string_buffer(256)
    content = aligned(weights)
    handle = library.st3_open(content.ctypes.data, content.size, threads, error, len(error))
    assert handle, error.value
    try:
        yield handle
    finally:
        library.st3_close(handle)
