"""Dense linear layers over tokens: every tile and block of the kernel, ragged rows and features, batches, threads."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from networks import RUNNABLE
from support import Compiler, assert_same_bits, capture_module, prune_randomly
from torch import Tensor, nn

from compile.format import Cut
from compile.from_torch import read_graph
from compile.graph import Activation, Conv, Graph
from compile.native.builder import Builder
from compile.native.emit import emit
from compile.native.isa import cache_bytes, isa_for
from compile.native.plan import Plan
from compile.native.schedule import Schedule, options, without_joins
from compile.native.select import choose_plan, pixel_plan
from compile.native.trial import aligned, open_library, pointers
from compile.passes.simplify import simplify
from runtime.abi import STEPS_FILE, batch_folder
from runtime.artifact import Artifact
from runtime.engine import load
from runtime.steps import StepInfo

L1, L2 = 48 * 1024, 2**21
ACTIVATIONS: tuple[Activation, ...] = ("identity", "relu", "gelu")
CODES = 16  # of the kernel's tiles and blocks in one chain


class Encoder(nn.Module):
    """What a ViT's block does with tokens: a norm, a wide layer with GELU, a narrow one, and the sum with the input."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.norm = nn.Conv2d(3, features, 1), nn.LayerNorm(features)
        self.wide, self.narrow = nn.Linear(features, hidden), nn.Linear(hidden, features)
        self.head = nn.Linear(features, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x + self.narrow(nn.functional.gelu(self.wide(self.norm(x))))
        return self.head(torch.relu(x))[:, 1]


def kernels(artifact: Artifact, batch_size: int) -> dict[str, str]:
    steps = (artifact.payload / batch_folder(batch_size) / STEPS_FILE).read_bytes()
    return {step.layer: step.kernel for step in msgspec.json.decode(steps, type=list[StepInfo]) if step.layer}


@pytest.mark.parametrize(
    ("isa", "tokens", "features", "hidden", "batch_size"),
    [("portable", 2, 5, 9, 3), ("native", 17, 33, 70, 1), ("native", 50, 24, 41, 16), ("native", 197, 37, 45, 2)],
)
def test_ragged_tokens_agree_with_torch(
    compiler: Compiler, isa: str, tokens: int, features: int, hidden: int, batch_size: int
) -> None:
    engine = compiler.engine(Encoder(features, hidden), (3, 1, tokens), batch_size, isa=isa)
    assert {kernels(engine.artifact, batch_size)[name] for name in ("wide", "narrow")} == {"dense"}
    inputs = np.random.default_rng(7).standard_normal((batch_size, 3, 1, tokens)).astype(np.float32)
    with torch.no_grad():
        expected = Encoder(features, hidden).eval()(torch.from_numpy(inputs)).numpy()
    (result,) = engine.run({"input": inputs}).values()
    engine.close()
    assert np.abs(result - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("batch_size", [1, 3])
def test_any_number_of_threads_gives_the_same_bits(compiler: Compiler, batch_size: int) -> None:
    artifact = compiler.artifact(Encoder(33, 70), (3, 1, 197), batch_size)
    inputs = np.random.default_rng(3).standard_normal((batch_size, 3, 1, 197)).astype(np.float32)
    assert_same_bits(artifact, inputs, 10)


def test_sparse_and_dense_layers_share_a_layout(compiler: Compiler) -> None:
    """One layer of a sparse network that nobody pruned, as torch's attention has it, brings no relayout along."""
    module = Encoder(48, 96)
    prune_randomly(module.narrow, 0.1)
    artifact = compiler.artifact(module, (3, 1, 50))
    found = kernels(artifact, 1)
    assert found["wide"] == "dense"
    assert found["narrow"].endswith("_stream")
    steps = msgspec.json.decode((artifact.payload / batch_folder(1) / STEPS_FILE).read_bytes(), type=list[StepInfo])
    assert [step.kernel for step in steps].count("relayout") == 1  # the picture's
    load(artifact.folder).close()


def chain(tokens: int, layers: int) -> Graph:
    """Linear layers over tokens whose features fill no blocks, one after another."""
    generator = np.random.default_rng(0)
    nodes: list[Conv] = []
    shapes = {"input": (37, 1, tokens)}
    value = "input"
    for number, activation in zip(range(layers), cycle(ACTIVATIONS)):
        inputs, outputs = ((37, 43), (43, 37))[number % 2]
        weight = (generator.standard_normal((outputs, inputs, 1, 1)) * 1.4 / np.sqrt(inputs)).astype(np.float32)
        bias = generator.standard_normal(outputs).astype(np.float32)
        name = f"layer{number}"
        # the residual is what the layer before the last one gave, which has as many features
        residual = nodes[-2].output if number % 4 == 3 else None
        nodes.append(Conv(name, value, name, "linear", weight, bias, activation=activation, residual=residual))
        shapes[name] = (outputs, 1, tokens)
        value = name
    return Graph("input", value, tuple(nodes), shapes)


def expected_of(graph: Graph, inputs: np.ndarray) -> np.ndarray:
    known = {"input": torch.from_numpy(inputs[:, :, 0].transpose(0, 2, 1).copy())}
    functions = {"identity": lambda x: x, "relu": torch.relu, "gelu": nn.functional.gelu}
    for node in graph.nodes:
        assert isinstance(node, Conv)
        value = nn.functional.linear(known[node.input], torch.from_numpy(node.weight[:, :, 0, 0]))
        value += torch.from_numpy(node.bias) + (0 if node.residual is None else known[node.residual])
        known[node.output] = functions[node.activation](value)
    return known[graph.output].numpy().transpose(0, 2, 1)[:, :, None]


def dense_codes(plan: Plan, isa_name: str) -> list[Schedule]:
    """Each tile and block of the dense kernel once, with three chunks of 16 input channels and groups for threads."""
    found: dict[tuple[int, int, int], Schedule] = {}
    for ranked in options(plan, isa_for(isa_name), L1).values():
        for one in ranked:
            if one.format == "dense":
                cut = Cut(16, 3, one.cut.block)
                found[one.tile_rows, one.tile_columns, cut.block] = msgspec.structs.replace(one, cut=cut)
    return list(found.values())


@pytest.mark.parametrize("isa_name", RUNNABLE)
def test_every_tile_and_block_agrees_with_torch(isa_name: str, tmp_path: Path) -> None:
    isa = isa_for(isa_name)
    tokens = 13 * isa.lanes - 11  # as 197 tokens lie in vectors of 16
    codes = dense_codes(without_joins(pixel_plan(chain(tokens, 1), 1, 1, isa, L2)), isa_name)
    assert len(codes) > 10
    for first in range(0, len(codes), CODES):
        part = codes[first : first + CODES]
        graph = chain(tokens, len(part))
        plan = without_joins(pixel_plan(graph, 1, 1, isa, L2))
        source = emit(plan, {f"layer{number}": code for number, code in enumerate(part)}, isa)
        with Builder(isa) as builder:
            library = open_library(builder.library(source, tmp_path / f"{first}.so"))
        weights = aligned(source.weights())
        inputs = np.random.default_rng(1).standard_normal((1, 37, 1, tokens)).astype(np.float32)
        expected, result = expected_of(graph, inputs), np.empty((1, *graph.shapes[graph.output]), np.float32)
        for threads in (1, 3):
            handle = library.st3_open(weights.ctypes.data, weights.size, threads, None, 0)
            assert library.st3_run(handle, inputs.ctypes.data, pointers([result])) == 0
            library.st3_close(handle)
            assert np.abs(result - expected).max() < 2e-5 * np.abs(expected).max()


def test_the_rule_takes_dense_for_weights_without_zeros_and_streams_for_few() -> None:
    """What ``--no-tune`` gets: a tile that the registers hold, chunks that the second cache holds."""
    isa = isa_for(RUNNABLE[0])
    for density, wanted in ((1.0, {"dense"}), (0.1, {"offset_stream", "pair_stream"})):
        module = Encoder(96, 256)
        prune_randomly(module, density)
        graph = simplify(read_graph(capture_module(module, (3, 1, 197), 1)))
        plan = choose_plan(graph, 1, isa, cache_bytes(2, isa))
        ranked = options(without_joins(plan), isa, L1)
        wide = [found for name, found in ranked.items() if plan.graph.shapes[name][0] == 256]
        assert {found[0].format for found in wide} <= wanted
        assert wide
