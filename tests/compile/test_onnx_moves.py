"""ONNX operators that only move data, or resize a map, on ragged shapes against ONNX Runtime; others' refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_models import Builder, agree

from compile.graph import Concat, Conv, Elementwise, Mean, Move, Resize
from compile.lower import lower
from compile.network import Normalisation
from compile.onnx_network import open_onnx
from runtime.check import replay
from runtime.engine import load
from runtime.errors import UserError


def split(build: Builder, *sizes: int, axis: int = 1, **attributes: int) -> str:
    """The parts of a map of 12 channels, joined in another order along the channels."""
    source = build.conv("x", 3, 12)
    parts = [f"part_{number}" for number in range(3)]
    given = [source, build.shape(*sizes)] if sizes else [source]
    build.nodes.append(helper.make_node("Split", given, parts, axis=axis, **attributes))
    return build.node("Concat", parts[2], parts[0], parts[1], axis=1)


def cut(build: Builder, starts: list[int], ends: list[int], axes: list[int], steps: list[int] | None = None) -> str:
    given = [build.shape(*numbers) for numbers in (starts, ends, axes)]
    return build.node("Slice", build.conv("x", 3, 6), *given, *([build.shape(*steps)] if steps else []))


def with_token(build: Builder) -> str:
    """A class token before the pixels, taken out again with the last of them."""
    rows = build.node("Transpose", build.node("Reshape", "x", build.shape(0, 3, -1)), perm=[0, 2, 1])
    sizes = build.node("Shape", rows)
    batch = build.node("Gather", sizes, build.constant([0], np.int64))
    token = build.node("Expand", build.normal(1, 1, 3), build.node("Concat", batch, build.shape(1, 3), axis=0))
    joined = build.node("Add", build.node("Concat", token, rows, axis=1), build.normal(1, 64, 3))
    layer = build.node("MatMul", joined, build.normal(3, 4))
    first = build.node("Gather", layer, build.constant(0, np.int64), axis=1)
    return build.node("Concat", first, build.node("Gather", layer, build.constant(-1, np.int64), axis=1), axis=1)


NETWORKS: dict[str, Callable[[Builder], str]] = {
    "split": lambda b: split(b, 2, 7, 3),
    "split into equal parts": lambda b: split(b, num_outputs=3) if b.opset >= 18 else split(b),
    "slice of channels": lambda b: b.conv(cut(b, [1], [5], [1]), 4, 3),
    "slice of every second": lambda b: cut(b, [1], [100], [1], [2]),
    "slice of rows and columns": lambda b: b.conv(cut(b, [1, -5], [-1, 2**62], [2, 3], [2, 1]), 6, 3),
    "slice backwards": lambda b: b.conv(cut(b, [-1], [-(2**62)], [3], [-1]), 6, 3),
    "gather of rows": lambda b: b.conv(b.node("Gather", "x", b.constant([0, 0, -1, 3], np.int64), axis=2), 3, 4),
    "gather of a grid": lambda b: b.node(
        "Reshape", b.node("Gather", "x", b.constant([[0, 2, 4], [8, 6, 4]], np.int64), axis=2), b.shape(0, 3, 6, 7)
    ),
    "gather of coordinates": lambda b: b.node(
        "Transpose",
        b.node("GatherND", b.node("Transpose", "x", perm=[2, 3, 0, 1]), b.constant([[[0, 6], [8, -1]]] * 3, np.int64)),
        perm=[2, 3, 0, 1],
    ),
    "tiles": lambda b: b.conv(b.node("Tile", "x", b.shape(1, 1, 2, 3)), 3, 4),
    "expanded": lambda b: b.node("Expand", b.node("GlobalAveragePool", b.conv("x", 3, 4)), b.shape(1, 4, 3, 5)),
    "joined rows": lambda b: b.conv(b.node("Concat", "x", "x", b.node("Relu", "x"), axis=1), 9, 4),
    "a class token": with_token,
    "blocks of space": lambda b: b.node(
        "SpaceToDepth", b.node("Pad", b.conv("x", 3, 4), b.shape(0, 0, 0, 0, 0, 0, 1, 1)), blocksize=2
    ),
    "channels shuffled": lambda b: b.node(
        "Reshape",
        b.node("Transpose", b.node("Reshape", b.conv("x", 3, 8), b.shape(0, 2, 4, 9, 7)), perm=[0, 2, 1, 3, 4]),
        b.shape(0, 8, 9, 7),
    ),
    "channels in groups as the answer": lambda b: b.node("Reshape", b.conv("x", 3, 8), b.shape(0, 2, 4, 9, 7)),
    "a cropping pad": lambda b: b.conv(b.node("Pad", "x", b.shape(0, 0, -1, 1, 0, 0, 0, -2)), 3, 4),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_moves_of_data(tmp_path: Path, name: str) -> None:
    for opset in (13, 23):
        build = Builder(opset)
        graph = agree(build.model(NETWORKS[name](build)), tmp_path / "m.onnx")
        assert {type(node) for node in graph.nodes} <= {Conv, Move, Concat, Mean, Elementwise}


@pytest.mark.parametrize(
    ("mode", "aligned"), [("nearest", False), ("linear", False), ("linear", True), ("cubic", False), ("cubic", True)]
)
@pytest.mark.parametrize("given", ["sizes", "scales"])
def test_resizing(tmp_path: Path, mode: str, aligned: bool, given: str) -> None:
    for opset in (13, 19):
        build = Builder(opset)
        rule = "align_corners" if aligned else "asymmetric" if mode == "nearest" else "pytorch_half_pixel"
        wanted = ["", build.constant([1, 1, 2, 1.5])] if given == "scales" else ["", "", build.shape(1, 3, 5, 11)]
        value = build.node(
            "Resize",
            "x",
            *wanted,
            mode=mode,
            coordinate_transformation_mode=rule,
            nearest_mode="floor",
            cubic_coeff_a=-0.75,
        )
        if given == "sizes":
            value = build.node("Resize", build.conv(value, 3, 3), "", build.constant([1, 1, 2, 2]), mode="linear")
        model = build.model(value, (1, 3, 9, 7))
        graph = agree(model, tmp_path / "m.onnx", 1)
        assert sum(isinstance(node, Resize) for node in graph.nodes) == (2 if given == "sizes" else 1)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            {"mode": "nearest"},
            r"\(Resize\) resizes by nearest, half_pixel, round_prefer_floor; .* asymmetric and floor",
        ),
        ({"mode": "linear", "coordinate_transformation_mode": "asymmetric"}, r"resizes by linear, asymmetric"),
        ({"mode": "cubic", "cubic_coeff_a": -0.5}, "resizes by cubic"),
    ],
)
def test_other_resizing_is_refused(tmp_path: Path, attributes: dict[str, object], message: str) -> None:
    build = Builder(18)
    onnx.save(
        build.model(build.node("Resize", "x", "", build.constant([1, 1, 2, 2]), **attributes)), tmp_path / "m.onnx"
    )
    with pytest.raises(UserError, match=message + r".*; --backend onnxruntime takes the file as it is"):
        lower(tmp_path / "m.onnx", tmp_path / "out", "native", (1,), 1, "native")


def test_what_the_graph_has_not_other_backends_still_take(tmp_path: Path) -> None:
    build = Builder(18)
    first = build.node("LeakyRelu", build.conv("x", 3, 8))
    pooled = build.node("Flatten", build.node("GlobalAveragePool", first))
    wide = build.node("MatMul", pooled, build.normal(8, 6))
    onnx.save(build.model(build.node("Gemm", wide, build.normal(5, 6), transB=1)), tmp_path / "m.onnx")
    artifact = lower(tmp_path / "m.onnx", tmp_path, "onnxruntime", (2,), 1, "native")
    loaded = load(artifact)
    assert replay(loaded).passed
    manifest = loaded.artifact.manifest
    assert manifest.classes == ("0", "1", "2", "3", "4")
    assert [(layer.op, layer.weight_shape, layer.macs_dense) for layer in manifest.layers] == [
        ("conv2d", (8, 3, 3, 3), 8 * 27 * 63),
        ("linear", (6, 8), 48),
        ("linear", (5, 6), 30),
    ]
    assert [layer.nonzeros for layer in manifest.layers] == [
        np.count_nonzero(weight) for name, weight in build.weights.items() if weight.ndim > 1
    ]
    with pytest.raises(UserError, match=r"operator LeakyRelu.*; --backend onnxruntime takes the file as it is"):
        lower(tmp_path / "m.onnx", tmp_path, "native", (2,), 1, "native")


def test_shapes_that_are_not_known_leave_a_refusal_as_it_is(tmp_path: Path) -> None:
    build = Builder(18)
    odd = build.node("NonZero", build.node("LeakyRelu", "x"))
    sizes = build.node("Shape", build.node("Cast", odd, to=1))
    moved = build.node("Expand", build.node("LeakyRelu", "x"), build.node("Mul", sizes, build.shape(0, 0)))
    onnx.save(build.model(build.conv(moved, 3, 4)), tmp_path / "m.onnx")
    with pytest.raises(UserError, match=r"operator (LeakyRelu|NonZero), which the native backend does not have"):
        open_onnx(tmp_path / "m.onnx", 1, Normalisation())


def test_a_small_file_does_not_make_a_large_compiler(tmp_path: Path) -> None:
    build = Builder(18)
    wide = build.node("Tile", "x", build.shape(1, 1, 2**14, 2**14))
    onnx.save(build.model(wide), tmp_path / "m.onnx")
    with pytest.raises(UserError, match=r"'tile_0' would have shape .*, more than \d+ numbers"):
        open_onnx(tmp_path / "m.onnx", 1, Normalisation())
