from __future__ import annotations

import io
import json
import pickle
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

import st3
from runtime.data import Preprocessing
from runtime.errors import UserError
from runtime.exported import read_program
from st3.checkpoint import CheckpointInfo
from st3.graph import export_graph, load_graph, save_graph
from st3.inspect import describe, render

PREPROCESSING = Preprocessing(shape=(3, 8, 8), mean=(0.5,) * 3, std=(0.25,) * 3)


def info(plan: st3.SparsityPlan, method: str = "st3") -> CheckpointInfo:
    return CheckpointInfo(
        recipe="none", recipe_digest="0", method=method, pattern=plan.pattern, plan=plan,
        target_sparsity=plan.target, accuracy=0.5, loss=1.0, evaluation="none/test", preprocessing=PREPROCESSING,
        classes=("a", "b"), seed=0, epochs=1.0, steps=1,
        batch_size=1, device="cpu", threads=1, train_seconds=0.1, commit="unknown", versions={"st3": "0"},
    )  # fmt: skip


def baked(plan: st3.SparsityPlan) -> tuple[nn.Module, st3.Pruner]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 2),
    )  # fmt: skip
    model(torch.randn(16, 3, 8, 8))
    pruner = st3.attach(model, plan)
    pruner.step(1.0)
    pruner.bake()
    return model.eval(), pruner


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, pruner = baked(st3.SparsityPlan(sparsity=0.9))
    folder = tmp_path_factory.mktemp("run") / "checkpoint"
    st3.write_checkpoint(folder, model.to(memory_format=torch.channels_last), info(pruner.plan), pruner.patterns)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "checkpoint"))


def test_round_trip_keeps_zeros_and_every_bit(original: Path) -> None:
    model, _ = baked(st3.SparsityPlan(sparsity=0.9))
    checkpoint = st3.load_checkpoint(original)
    weights = checkpoint.weights()
    assert set(weights) == set(model.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(weights[name], value)
    zeros = weights["0.weight"][weights["0.weight"] == 0]
    assert len(zeros) > 100
    assert not torch.signbit(zeros).any()
    program = checkpoint.exported_program().module()
    for batch in (1, 5):
        pictures = torch.randn(batch, 3, 8, 8)
        torch.testing.assert_close(program(pictures), model(pictures))


def test_info_counts_what_is_in_the_file(original: Path) -> None:
    checkpoint = st3.load_checkpoint(original)
    weights = checkpoint.weights()
    assert [layer.name for layer in checkpoint.info.layers] == ["0", "5"]
    assert [layer.kind for layer in checkpoint.info.layers] == ["conv2d", "linear"]
    for layer in checkpoint.info.layers:
        assert layer.nonzeros == int(weights[layer.weight_name].count_nonzero())
        assert layer.shape == tuple(weights[layer.weight_name].shape)
    assert abs(checkpoint.info.sparsity - 0.9) <= 1 / 232


def test_no_file_holds_pickle_or_a_second_copy_of_the_weights(original: Path) -> None:
    read_program(original / "graph.pt2")
    with zipfile.ZipFile(original / "graph.pt2") as archive:
        weights = [entry for entry in archive.infolist() if "/data/weights/weight_" in entry.filename]
    assert weights
    assert max(entry.file_size for entry in weights) <= 8


def test_nothing_else_is_left_beside_the_checkpoint(original: Path) -> None:
    assert [path.name for path in original.parent.iterdir()] == ["checkpoint"]


def test_writing_again_replaces_the_old_one(folder: Path) -> None:
    (folder / "stale").write_text("x")
    model, pruner = baked(st3.SparsityPlan(sparsity=0.5))
    st3.write_checkpoint(folder, model, info(pruner.plan), pruner.patterns)
    assert not (folder / "stale").exists()
    assert st3.load_checkpoint(folder).info.target_sparsity == 0.5


def test_a_model_that_is_not_baked_is_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    pruner = st3.attach(model, st3.SparsityPlan(sparsity=0.5))
    with pytest.raises(UserError, match=r"call pruner.bake\(\)"):
        st3.write_checkpoint(tmp_path / "x", model, info(pruner.plan), pruner.patterns)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["weights.safetensors", "graph.pt2"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damaged_files_are_refused(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    if damage == "flip":
        path.write_bytes(raw)
    elif damage == "truncate":
        path.write_bytes(raw[:-100])
    else:
        path.unlink()
    with pytest.raises(UserError, match="missing" if damage == "remove" else "differs from its digest"):
        st3.load_checkpoint(folder)


def rewrite(folder: Path, **changes: object) -> None:
    path = folder / "checkpoint.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 99}, "has schema 99, this version reads up to 4"),
        ({"accuracy": "good"}, "is damaged"),
        ({"extra": 1}, "is damaged"),
        ({"files": {}}, "does not list weights.safetensors"),
    ],
)
def test_foreign_or_newer_descriptions_are_refused(folder: Path, changes: dict[str, object], message: str) -> None:
    rewrite(folder, **changes)
    with pytest.raises(UserError, match=message):
        st3.load_checkpoint(folder)


def test_a_path_outside_the_folder_is_refused(folder: Path) -> None:
    files = st3.load_checkpoint(folder).info.files
    rewrite(folder, files=files | {"../secret": "0" * 64})
    with pytest.raises(UserError, match="outside the checkpoint"):
        st3.load_checkpoint(folder)


def test_an_empty_folder_and_half_a_json_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no checkpoint"):
        st3.load_checkpoint(tmp_path)
    path = folder / "checkpoint.json"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="is damaged"):
        st3.load_checkpoint(folder)


def test_a_checkpoint_takes_the_place_of_a_checkpoint_alone(folder: Path) -> None:
    model, pruner = baked(st3.SparsityPlan(sparsity=0.9))
    st3.write_checkpoint(folder, model, info(pruner.plan), pruner.patterns)
    (folder / "train").mkdir()
    with pytest.raises(UserError, match=r"holds other things than a checkpoint \(train\), which would be lost"):
        st3.write_checkpoint(folder, model, info(pruner.plan), pruner.patterns)
    assert (folder / "train").exists()


def test_pickled_code_in_a_graph_is_never_loaded(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return marker.touch, ()

    graph = folder / "graph.pt2"
    with zipfile.ZipFile(graph, "a") as archive:
        archive.writestr("graph/data/sample_inputs/other.pt", pickle.dumps(Payload()))
    checkpoint = st3.Checkpoint(folder=folder, info=st3.load_checkpoint(folder, verify=False).info)
    with pytest.raises(UserError, match="may be pickled code"):
        checkpoint.exported_program()
    assert not marker.exists()


def test_a_graph_that_says_its_tensors_are_pickled_is_refused(folder: Path, tmp_path: Path) -> None:
    graph, changed = folder / "graph.pt2", tmp_path / "changed.pt2"
    with zipfile.ZipFile(graph) as source, zipfile.ZipFile(changed, "w") as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry).replace(b'"use_pickle": false', b'"use_pickle": true'))
    with pytest.raises(UserError, match="pickled tensors"):
        read_program(changed)


@pytest.mark.parametrize(
    "formula", ["exit()", "__import__('os')", "Symbol('s77').func", "Max('a b')", "[].__class__", "open('x')"]
)
def test_a_formula_that_is_code_is_never_evaluated(folder: Path, tmp_path: Path, formula: str) -> None:
    graph, changed = folder / "graph.pt2", tmp_path / "changed.pt2"
    count = 0
    with zipfile.ZipFile(graph) as source, zipfile.ZipFile(changed, "w") as target:
        for entry in source.infolist():
            raw = source.read(entry)
            if "/models/" in entry.filename:
                changes = re.subn(rb'"expr_str": "[^"]*"', b'"expr_str": ' + json.dumps(formula).encode(), raw, count=1)
                raw, count = changes
            target.writestr(entry.filename, raw)
    assert count == 1
    with pytest.raises(UserError, match="not one of sizes"):
        read_program(changed)


def test_weights_of_another_network_are_refused(folder: Path) -> None:
    safetensors.torch.save_file({"0.weight": torch.zeros(1)}, folder / "weights.safetensors")
    with pytest.raises(UserError, match="needs the weight"):
        st3.load_checkpoint(folder, verify=False).exported_program()


def test_describe_is_json_and_render_is_a_table(original: Path) -> None:
    from rich.console import Console

    data = json.loads(json.dumps(describe(original)))
    assert data["kind"] == "checkpoint"
    assert data["prunable_weights"] == 8 * 27 + 16
    assert data["nonzeros"] == sum(layer["nonzeros"] for layer in data["layers"])
    console = Console(width=120, record=True, file=io.StringIO())
    for part in render(original):
        console.print(part)
    text = console.export_text()
    assert "8x3x3x3" in text
    assert "of 232 weights non-zero" in text


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_graphs_of_torchvision_pass_the_gate(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None, num_classes=5).eval()
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    save_graph(export_graph(model, (3, 64, 64)), tmp_path / "graph.pt2")
    pictures = torch.randn(3, 3, 64, 64)
    torch.testing.assert_close(load_graph(tmp_path / "graph.pt2", weights).module()(pictures), model(pictures))


def test_a_buffer_of_switches_stays_one(tmp_path: Path) -> None:
    """Adding +0 to a boolean would make a number of it, and the graph would not take it."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3)
            self.register_buffer("kept", torch.tensor([[[True]], [[False]]]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.conv(x) * self.kept).mean((2, 3))

    model = Masked()
    found = st3.write_checkpoint(tmp_path / "c", model, info(st3.SparsityPlan(sparsity=0.5)), {"conv": ("dense", "")})
    pictures = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(found.exported_program().module()(pictures), model(pictures))


def test_a_checkpoint_of_schema_1_still_loads(folder: Path) -> None:
    path = folder / "checkpoint.json"
    data = json.loads(path.read_text())
    new = (
        "precision", "execution", "world_size", "finetune_steps", "teacher", "start", "changes", "held_out",
        "selected_step", "model", "model_arguments",
    )  # fmt: skip
    for name in new:
        del data[name]
    data["schema_version"] = 1
    path.write_text(json.dumps(data))
    info = st3.load_checkpoint(folder).info
    assert (info.precision, info.world_size, info.selected_step, info.schema_version) == ("fp32", 1, None, 1)
