"""Attention in ONNX files: the spellings that exporters have for it, and networks from both of torch's exporters."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from graph_interpreter import run_graph
from onnx import TensorProto
from onnx_models import Builder, agree, export
from support import capture_module, prune_randomly
from test_attention import NETWORKS

from compile import from_torch
from compile.from_onnx import read_graph
from compile.graph import Attention, Conv, Graph, LayerNorm, Move
from compile.lower import lower
from compile.onnx_file import read_onnx
from compile.passes.simplify import simplify
from runtime.check import replay
from runtime.engine import load

HEADS, DEPTH, TOKENS = 3, 4, 15
LONGER = [
    ("tokens", False, None),
    ("windows", True, 1),
    ("cosine windows", True, None),
    ("cosine windows", False, 1),
    ("grid", True, 1),
]
"""Networks, whether the new exporter writes them, and their batch, where it is fixed."""
WIDTH = HEADS * DEPTH


def tokens(build: Builder) -> str:
    """``(B, 15, 12)``: a map of 5x3 pixels as tokens."""
    rows = build.node("Reshape", build.conv("x", 3, WIDTH), build.shape(0, WIDTH, -1))
    return build.node("Transpose", rows, perm=[0, 2, 1])


def packed(build: Builder, x: str, how: str) -> list[str]:
    """Queries, keys and values ``(B, heads, T, D)`` of one linear layer."""
    weight, bias = build.normal(WIDTH, 3 * WIDTH), build.normal(3 * WIDTH)
    if how == "gemm":
        flat = build.node("Gemm", build.node("Reshape", x, build.shape(-1, WIDTH)), weight, bias)
        qkv = build.node("Reshape", flat, build.shape(-1, TOKENS, 3 * WIDTH))
    else:
        qkv = build.node("Add", bias, build.node("MatMul", x, weight))
    if how in ("split", "slice"):
        if how == "split":
            parts = [f"{qkv}_{part}" for part in "qkv"]
            build.nodes.append(onnx.helper.make_node("Split", [qkv, build.shape(*[WIDTH] * 3)], parts, axis=-1))
        else:
            edges = [build.shape(WIDTH * number) for number in range(4)]
            parts = [build.node("Slice", qkv, edges[i], edges[i + 1], build.shape(-1)) for i in range(3)]
        apart = [build.node("Reshape", part, build.shape(0, 0, HEADS, DEPTH)) for part in parts]
        return [build.node("Transpose", part, perm=[0, 2, 1, 3]) for part in apart]
    apart_all = build.node("Reshape", qkv, build.shape(0, 0, 3, HEADS, DEPTH))
    turned = build.node("Transpose", apart_all, perm=[2, 0, 3, 1, 4])
    if how == "unbind":
        parts = [f"{qkv}_{part}" for part in "qkv"]
        build.nodes.append(onnx.helper.make_node("Split", [turned, build.shape(1, 1, 1)], parts, axis=0))
        return [build.node("Squeeze", part, build.shape(0)) for part in parts]
    return [build.node("Gather", turned, build.constant(number, np.int64), axis=0) for number in range(3)]


def scaled(build: Builder, query: str, key: str, how: str) -> str:
    """Products of queries and keys over the root of their size."""
    root = math.sqrt(DEPTH)
    turned = build.node("Transpose", key, perm=[0, 1, 3, 2])
    if how == "both":
        factor = build.constant(1 / math.sqrt(root))
        return build.node("MatMul", build.node("Mul", query, factor), build.node("Mul", turned, factor))
    if how == "query":
        return build.node("MatMul", build.node("Mul", query, build.constant(1 / root)), turned)
    if how == "einsum":
        products = build.node("Einsum", query, key, equation="bhid,bhjd->bhij")
        return build.node("Mul", products, build.constant([1 / root]))
    if how == "shape":
        last = build.node("Gather", build.node("Shape", query), build.constant(-1, np.int64))
        size = build.node("Sqrt", build.node("Cast", last, to=TensorProto.FLOAT))
        return build.node("Div", build.node("MatMul", query, turned), size)
    return build.node("Div", build.node("MatMul", query, turned), build.constant(root))


def finished(build: Builder, weights: str, value: str, shape: str = "merge") -> str:
    """Means of the values, heads joined, one more linear layer, and back to a map."""
    mean = build.node("MatMul", weights, value) if shape == "merge" else weights
    joined = build.node("Reshape", build.node("Transpose", mean, perm=[0, 2, 1, 3]), build.shape(0, 0, WIDTH))
    last = build.node("MatMul", joined, build.normal(WIDTH, 5))
    return build.node("Reshape", build.node("Transpose", last, perm=[0, 2, 1]), build.shape(0, 5, 5, 3))


def one_attention(graph: Graph) -> Attention:
    kinds = Counter(type(node) for node in graph.nodes)
    assert set(kinds) <= {Conv, Move, Attention}
    assert kinds[Move] <= 2  # pixels in a row of tokens, and back
    (found,) = (node for node in graph.nodes if isinstance(node, Attention))
    np.testing.assert_allclose(found.scale, 1 / math.sqrt(DEPTH), rtol=1e-6)
    assert found.sizes == (DEPTH, DEPTH)
    return found


@pytest.mark.parametrize(
    ("layer", "scale", "mask", "opset"),
    [
        ("split", "query", "none", 13),
        ("slice", "both", "shared", 17),
        ("gather", "shape", "heads", 18),
        ("gather", "einsum", "minus infinity", 20),
        ("unbind", "div", "before the scale", 22),
        ("gemm", "query", "guarded", 22),
    ],
)
def test_every_spelling_is_the_same_attention(tmp_path: Path, layer: str, scale: str, mask: str, opset: int) -> None:
    build = Builder(opset)
    query, key, value = packed(build, tokens(build), layer)
    scores = scaled(build, query, key, scale)
    terms = build.random.standard_normal((1, HEADS, TOKENS, TOKENS))
    if mask in ("shared", "guarded"):
        scores = build.node("Add", scores, build.constant(terms[0, 0]))
    elif mask == "heads":
        scores = build.node("Add", build.constant(terms), scores)
    elif mask == "minus infinity":
        scores = build.node("Add", scores, build.constant(np.triu(np.full((TOKENS, TOKENS), -np.inf), 1)))
    weights = build.node("Softmax", scores, axis=-1)
    if mask == "guarded":
        weights = build.node("Where", build.node("IsNaN", weights), build.constant(0.0), weights)
    model = build.model(finished(build, weights, value), ("N", 3, 5, 3))
    found = one_attention(agree(model, tmp_path / "m.onnx"))
    shapes = {"none": None, "before the scale": None, "heads": (1, HEADS, TOKENS, TOKENS)}
    shape = None if found.bias is None else found.bias.shape
    assert shape == shapes.get(mask, (1, 1, TOKENS, TOKENS))
    # zeros of the weights are zeros of the graph
    linear = [node for node in agree(model, tmp_path / "m.onnx", 3).nodes if isinstance(node, Conv)]
    assert [np.count_nonzero(node.weight) for node in linear if node.op == "linear"] == [
        np.count_nonzero(weight) for weight in build.weights.values() if weight.shape in ((12, 36), (12, 5))
    ]


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("mask", ["none", "terms", "boolean", "causal"])
def test_the_operator_of_opset_23(tmp_path: Path, joined: bool, mask: str) -> None:
    build = Builder(23)
    parts = packed(build, tokens(build), "split")
    attributes: dict[str, object] = {"is_causal": 1} if mask == "causal" else {}
    if joined:
        turned = [build.node("Transpose", part, perm=[0, 2, 1, 3]) for part in parts]
        parts = [build.node("Reshape", part, build.shape(0, 0, WIDTH)) for part in turned]
        attributes |= {"q_num_heads": HEADS, "kv_num_heads": HEADS}
    if mask in ("terms", "boolean"):
        terms = build.random.standard_normal((TOKENS, TOKENS))
        kept = (terms > 0) | np.eye(TOKENS, dtype=bool)
        parts.append(build.constant(terms) if mask == "terms" else build.constant(kept, np.bool_))
    value = build.node("Attention", *parts, **attributes)
    if joined:
        value = build.node("Reshape", value, build.shape(0, 0, HEADS, DEPTH))
        value = build.node("Transpose", value, perm=[0, 2, 1, 3])
    model = build.model(finished(build, value, "", "whole"), ("N", 3, 5, 3))
    found = one_attention(agree(model, tmp_path / "m.onnx"))
    assert (found.bias is None) == (mask == "none")


@pytest.mark.parametrize("how", ["clip", "max", "operator", "moved"])
def test_cosine_attention(tmp_path: Path, how: str) -> None:
    build = Builder(18)
    parts = packed(build, tokens(build), "gather")
    normal = []
    for part in parts[:2]:
        if how == "operator":
            normal.append(build.node("LpNormalization", part, axis=-1, p=2))
            continue
        low = build.constant(1e-3)
        if how == "moved":  # as ONNX Runtime writes files that it has optimised: measured in another order
            turned = build.node("Transpose", part, perm=[0, 2, 1, 3])
            length = build.node("ReduceL2", turned, build.shape(3), keepdims=1)
            length = build.node("Transpose", length, perm=[0, 2, 1, 3])
        else:
            length = build.node("ReduceL2", part, build.shape(-1), keepdims=1)
        bounded = build.node("Max", low, length) if how == "max" else build.node("Clip", length, low)
        normal.append(build.node("Div", part, build.node("Expand", bounded, build.node("Shape", part))))
    scores = build.node("MatMul", normal[0], build.node("Transpose", normal[1], perm=[0, 1, 3, 2]))
    factors = build.constant(np.array([1.0, 2.0, 0.5]).reshape(HEADS, 1, 1))
    weights = build.node("Softmax", build.node("Mul", scores, factors), axis=3)
    graph = agree(build.model(finished(build, weights, parts[2]), ("N", 3, 5, 3)), tmp_path / "m.onnx")
    (found,) = (node for node in graph.nodes if isinstance(node, Attention))
    assert found.scale.tolist() == [1.0, 2.0, 0.5]
    assert found.epsilon == pytest.approx(1e-30 if how == "operator" else 1e-3)


@pytest.mark.parametrize(
    ("name", "dynamo", "batch_size"),
    [
        ("tokens", True, None),
        ("windows", False, 2),
        ("grid", False, None),
        *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in LONGER),
    ],
)
def test_a_file_is_the_graph_that_the_checkpoint_is(
    tmp_path: Path, name: str, dynamo: bool, batch_size: int | None
) -> None:
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    module = prune_randomly(make(), 0.5)
    try:
        export(module, shape, tmp_path / "m.onnx", 18 if dynamo else 17, dynamo, batch_size)
    except (RuntimeError, ValueError, TypeError) as error:
        if dynamo:
            raise
        pytest.skip(f"torch {torch.__version__} has no old exporter any more: {error}")
    inputs = torch.randn(2, *shape)
    graph = simplify(read_graph(read_onnx(tmp_path / "m.onnx"), 2))
    with torch.no_grad():
        expected = module(inputs).numpy()
    result = run_graph(graph, inputs.numpy()).reshape(expected.shape)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)
    other = simplify(from_torch.read_graph(capture_module(module, shape, 2)))
    assert _work(graph) == _work(other)


def _work(graph: Graph) -> dict[str, list[object]]:
    """What of a graph costs time: layers with their non-zeros, attention, normalisations, how many moves."""
    layers = [node for node in graph.nodes if isinstance(node, Conv) and node.op in ("conv2d", "linear")]
    return {
        "layers": [(node.op, node.weight.shape, int(np.count_nonzero(node.weight))) for node in layers],
        "attention": [
            (
                node.sizes,
                None if node.bias is None else node.bias.shape,
                graph.shapes[node.output],
                np.float32(node.epsilon or 0),
            )
            for node in graph.nodes
            if isinstance(node, Attention)
        ],
        "rest": [sum(isinstance(node, kind) for node in graph.nodes) for kind in (LayerNorm, Move)],
    }


def test_a_file_runs_natively(tmp_path: Path) -> None:
    build = Builder(18)
    query, key, value = packed(build, tokens(build), "gather")
    weights = build.node("Softmax", scaled(build, query, key, "query"), axis=-1)
    onnx.save(build.model(finished(build, weights, value), ("N", 3, 5, 3)), tmp_path / "m.onnx")
    artifact = lower(tmp_path / "m.onnx", tmp_path, "native", (3,), 1, "native")
    assert replay(load(artifact)).error < 1e-5
