"""The matrix of torchvision's families, and networks that answer with maps, through checkpoint, compiler, engine."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from support import Compiler, prune_randomly
from torch import nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone

from runtime.check import replay
from runtime.engine import load
from train.network import Reference, factory


def _script() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts/model_matrix.py"
    spec = importlib.util.spec_from_file_location("model_matrix", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its named tuples look for their module
    spec.loader.exec_module(module)
    return module


MATRIX = _script()


def row(tmp_path: Path, family: str, backend: str) -> object:
    member = next(member for member in MATRIX.MEMBERS if member.family == family)
    return MATRIX.compiled(tmp_path, member, backend)


@pytest.mark.exhaustive
@pytest.mark.parametrize("backend", MATRIX.COLUMNS)
@pytest.mark.parametrize("family", [member.family for member in MATRIX.MEMBERS])
def test_a_family_compiles_and_agrees_with_torch(tmp_path: Path, family: str, backend: str) -> None:
    found = row(tmp_path, family, backend)
    if found.reason.startswith("torch does not export it"):
        pytest.skip(found.reason)
    assert found.error is not None, found.reason
    assert found.error <= MATRIX.TOLERANCE


def test_the_table_and_the_way_through_a_checkpoint(tmp_path: Path) -> None:
    rows = [
        row(tmp_path, "SqueezeNet", "onnxruntime"),
        MATRIX.Row("ViT", "vit_b_32", 64, "onnxruntime", None, "a; b", 1),
    ]
    assert rows[0].error <= MATRIX.TOLERANCE
    lines = MATRIX.markdown(rows).splitlines()
    assert lines[0] == "| family | network | picture | onnxruntime |"
    assert lines[2].startswith("| SqueezeNet | `squeezenet1_1` | 64 | ")
    assert lines[3] == "| ViT | `vit_b_32` | 64 | no: a |"


def _segmenter(name: str, **arguments: bool) -> Callable[[], nn.Module]:
    return lambda: factory(Reference(f"torchvision:{name}", arguments), None)()


MAPS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "lraspp_mobilenet_v3_large": (_segmenter("lraspp_mobilenet_v3_large"), ["output"]),
    "fcn_resnet50": (_segmenter("fcn_resnet50", aux_loss=True), ["out", "aux"]),
    "deeplabv3_resnet50": (_segmenter("deeplabv3_resnet50"), ["output"]),
    "deeplabv3_mobilenet_v3_large": (_segmenter("deeplabv3_mobilenet_v3_large"), ["output"]),
    "fpn": (lambda: resnet_fpn_backbone(backbone_name="resnet18", weights=None), ["0", "1", "2", "3", "pool"]),
    "mobilenet": (
        lambda: mobilenet_backbone(backbone_name="mobilenet_v3_large", weights=None, fpn=True),
        ["0", "1", "pool"],
    ),
    "ssdlite": (
        lambda: ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).backbone,
        ["0", "1", "2", "3", "4", "5"],
    ),
}
"""Networks that answer with maps, and the names of their outputs."""


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", MAPS)
def test_segmentation_networks_and_detection_backbones(compiler: Compiler, name: str) -> None:
    torch.manual_seed(0)
    make, outputs = MAPS[name]
    model = prune_randomly(make(), 0.3)
    artifact = compiler.artifact(model, (3, 64, 64))
    assert [spec.name for spec in artifact.manifest.outputs] == outputs
    assert replay(load(artifact.folder)).passed
