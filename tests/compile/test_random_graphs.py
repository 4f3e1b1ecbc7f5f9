"""Random small graphs of every kind of node, through all rewrites, the plan and g++, against torch."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from graph_interpreter import run_outputs
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import EVERY
from numpy.typing import NDArray
from random_graphs import graphs
from support import finish_artifact

from compile.backend import AS_MODELLED, Built
from compile.backends.native import choose_schedules, write_network
from compile.graph import Graph
from compile.native.builder import Builder
from compile.native.emit import emit
from compile.native.isa import Isa, cache_bytes
from compile.native.select import choose_plan
from compile.passes.simplify import simplify
from runtime.artifact import Requirements, Target
from runtime.engines.native import load

# sums of up to some hundred products in another order, and activations of our own
TOLERANCE = {"float32": 2e-5, "float16": 3e-2}


def compiled_answers(graph: Graph, inputs: NDArray[np.float32], isa: Isa, threads: int) -> list[NDArray[np.float32]]:
    batch_size = len(inputs)
    plan = choose_plan(simplify(graph), batch_size, isa, cache_bytes(2, isa))
    outputs = {
        f"output{index}": np.full((batch_size, *graph.shapes[value]), np.nan, np.float32)
        for index, value in enumerate(graph.outputs)
    }
    with tempfile.TemporaryDirectory() as name, Builder(isa) as builder:
        folder = Path(name)
        plan, schedules = choose_schedules(plan, builder, threads, AS_MODELLED)
        write_network(emit(plan, schedules, isa), builder, folder / "payload", folder / "source")
        target = Target("cpu", isa.name, isa.dtype, batch_size, threads)
        artifact = finish_artifact(folder, Built("native", {}, Requirements()), target, inputs, outputs)
        engine = load(artifact, threads)
        for _ in range(2):  # the second run finds what the first one left in memory
            engine.run({"input": inputs}, out=outputs)
        engine.close()
    return list(outputs.values())


cases = given(graphs(), st.sampled_from([1, 2, 3, 5, 16]), st.sampled_from(EVERY), st.sampled_from([1, 3]))


@settings(max_examples=20)
@cases
def test_any_graph_agrees_with_torch(graph: Graph, batch_size: int, isa: Isa, threads: int) -> None:
    assert_agrees(graph, batch_size, isa, threads)


@pytest.mark.exhaustive  # other graphs than those above
@settings(max_examples=200)
@cases
def test_many_graphs_agree_with_torch(graph: Graph, batch_size: int, isa: Isa, threads: int) -> None:
    assert_agrees(graph, batch_size, isa, threads)


def assert_agrees(graph: Graph, batch_size: int, isa: Isa, threads: int) -> None:
    inputs = np.random.default_rng(0).standard_normal((batch_size, *graph.shapes["input"])).astype(np.float32)
    results = compiled_answers(graph, inputs, isa, threads)
    for result, expected in zip(results, run_outputs(graph, inputs), strict=True):
        # each channel by its own size, so that a large one does not hide the others
        size = np.maximum(1, np.abs(expected).max((0, 2, 3), keepdims=True))
        assert (np.abs(result - expected) / size).max() < TOLERANCE[isa.dtype]
