"""The matrix of torchvision's families, and networks that answer with maps, through checkpoint, compiler, engine."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from support import Compiler, prune_randomly
from torch import nn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

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
    return MATRIX.compiled(MATRIX.write_network(tmp_path, member), member, backend)


@pytest.mark.exhaustive
@pytest.mark.parametrize("backend", MATRIX.BACKENDS)
@pytest.mark.parametrize("family", [member.family for member in MATRIX.MEMBERS])
def test_a_family_compiles_and_agrees_with_torch(tmp_path: Path, family: str, backend: str) -> None:
    found = row(tmp_path, family, backend)
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


class Level(nn.Module):
    """One of a backbone's maps."""

    def __init__(self, backbone: nn.Module, name: str) -> None:
        super().__init__()
        self.backbone, self.name = backbone, name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        level: torch.Tensor = self.backbone(x)[self.name]
        return level


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "name", ["lraspp_mobilenet_v3_large", "fcn_resnet50", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "fpn"]
)
def test_segmentation_networks_and_detection_backbones(compiler: Compiler, name: str) -> None:
    torch.manual_seed(0)
    if name == "fpn":
        model: nn.Module = Level(resnet_fpn_backbone(backbone_name="resnet18", weights=None), "0")
    else:
        model = factory(Reference(f"torchvision:{name}"), None)()
    assert compiler.deviation(prune_randomly(model, 0.3), (3, 64, 64)) < 1e-4
