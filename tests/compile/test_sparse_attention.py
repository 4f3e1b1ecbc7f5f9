"""A small ViT whose queries, keys and values are sparse, from its checkpoint to each backend's layer table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support import capture_module, checkpoint_info, export_module, prune_randomly
from torch import Tensor, nn
from torchvision.models import VisionTransformer

import st3
from compile.backends.tensorrt import write_model
from compile.cuda.body import open_body
from compile.cuda.candidates import offer
from compile.cuda.format import find_format
from compile.from_checkpoint import TorchNetwork
from compile.layers import read_layers
from compile.lower import lower
from compile.tensorrt.two_of_four import check_weights
from runtime.artifact import LayerEntry, open_artifact
from runtime.engine import load
from st3.checkpoint import INFO_FILE

SHAPE = (3, 32, 32)
LAYER = "encoder.layers.encoder_layer_0.self_attention.in_proj"
WEIGHT = "encoder.layers.encoder_layer_0.self_attention.in_proj_weight"


def vit(plan: st3.SparsityPlan) -> tuple[nn.Module, st3.Pruner]:
    torch.manual_seed(0)
    model = VisionTransformer(32, 8, num_layers=1, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=10)
    nn.init.normal_(model.heads.head.weight)  # zeros at first, which would hide all before
    pruner = st3.attach(model, plan, "st3")
    pruner.step(1.0)
    pruner.bake()
    return model.eval(), pruner


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, pruner = vit(st3.SparsityPlan(sparsity=0.9, scope="uniform"))
    info = checkpoint_info("st3", pruner.plan, SHAPE)
    return st3.write_checkpoint(tmp_path_factory.mktemp("vit") / "sparse", model, info, pruner.patterns).folder


def entry(artifact: Path) -> LayerEntry:
    (found,) = (layer for layer in open_artifact(artifact).manifest.layers if layer.name == LAYER)
    return found


def test_the_checkpoint_lists_it_like_any_layer(checkpoint: Path) -> None:
    opened = st3.load_checkpoint(checkpoint)
    assert [layer.name for layer in opened.info.layers][:2] == ["conv_proj", LAYER]
    layer = opened.info.layers[1]
    assert (layer.kind, layer.weight_name, layer.shape, layer.pattern) == ("linear", WEIGHT, (96, 32), "unstructured")
    weights = opened.weights()
    assert all(int(torch.count_nonzero(weights[layer.weight_name])) == layer.nonzeros for layer in opened.info.layers)
    assert layer.nonzeros == pytest.approx(0.1 * 96 * 32, abs=2)


def test_native_runs_it_sparse_and_agrees_with_torch(checkpoint: Path, tmp_path: Path) -> None:
    artifact = lower(checkpoint, tmp_path, "native", (2,), 1, "native")
    found = entry(artifact)
    assert (found.op, found.weight_shape, found.pattern) == ("linear", (96, 32), "unstructured")
    assert found.density == pytest.approx(0.1, abs=1e-3)
    assert "stream" in found.format  # the sparse formats of the engine
    assert found.macs_nonzero == pytest.approx(found.macs_dense / 10, rel=0.01)
    inputs = np.random.default_rng(0).standard_normal((2, *SHAPE)).astype(np.float32)
    with torch.no_grad():
        expected = vit(st3.SparsityPlan(sparsity=0.9, scope="uniform"))[0](torch.from_numpy(inputs)).numpy()
    engine = load(artifact)
    (result,) = engine.run({"input": inputs}).values()
    engine.close()
    assert np.abs(result - expected).max() < 1e-5 * np.abs(expected).max()


def test_a_checkpoint_from_before_compiles_with_a_dense_projection(checkpoint: Path, tmp_path: Path) -> None:
    model, pruner = vit(st3.SparsityPlan(sparsity=0.9, scope="uniform", exempt=(LAYER,)))
    info = checkpoint_info("st3", pruner.plan, SHAPE)
    folder = st3.write_checkpoint(tmp_path / "old", model, info, pruner.patterns).folder
    document = json.loads((folder / INFO_FILE).read_text())
    document["layers"] = [layer for layer in document["layers"] if layer["name"] != LAYER]
    document["plan"]["exempt"] = []
    (folder / INFO_FILE).write_text(json.dumps(document))
    found = entry(lower(folder, tmp_path, "onnxruntime", (1,), 1, "native"))
    assert (found.pattern, found.density, found.format) == ("dense", 1.0, "dense")


def test_two_of_four_is_exact_for_the_formats_of_a_gpu() -> None:
    model, _ = vit(st3.SparsityPlan(pattern="2:4"))
    network = TorchNetwork(export_module(model, SHAPE), SHAPE, 2)
    (site,) = (site for site in open_body(network, "float16").sites(2, "float16").values() if site.layer == LAYER)
    assert (site.problem.batch, site.problem.channels, site.problem.outputs) == (2 * 17, 32, 96)
    offered = offer(site, most=1)
    form = find_format("semi_structured")
    assert "semi_structured" in offered.candidates
    buffers = form.pack(site.rounded)
    assert torch.equal(form.unpack(buffers, site.problem.weight_shape), site.rounded)
    # what TensorRT is given: the same name, the same two of four
    (check,) = (check for check in check_weights(write_model(network)[0]) if check.node == LAYER)
    assert check.fits


class Other(nn.Module):
    """Attention to other tokens: the packed projection is cut, or there are three of widths of their own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem, self.keys = nn.Conv2d(3, 12, 4, stride=4), nn.Conv2d(3, width, 8, stride=8)
        self.attention = nn.MultiheadAttention(12, 3, kdim=width, vdim=width, batch_first=True)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens, keys = (layer(x).flatten(2).transpose(1, 2) for layer in (self.stem, self.keys))
        return self.head(self.attention(tokens, keys, keys, need_weights=False)[0].mean(1))


@pytest.mark.parametrize(("width", "names"), [(12, ["in_proj", "in_proj"]), (8, ["q_proj", "k_proj", "v_proj"])])
def test_attention_to_other_tokens_has_named_layers(width: int, names: list[str]) -> None:
    torch.manual_seed(0)
    module = prune_randomly(Other(width), 0.5).eval()
    captured = capture_module(module, (3, 16, 16), 2)
    layers = {layer.name: layer for layer in read_layers(captured)}
    found = [layer.name for layer in read_layers(captured) if layer.name.startswith("attention.")]
    assert found == [f"attention.{name}" for name in (*names, "out_proj")]
    assert all(0.2 < np.count_nonzero(layer.weight) / layer.weight.size < 0.8 for layer in layers.values())
    inputs = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(captured.module(inputs), module(inputs))
