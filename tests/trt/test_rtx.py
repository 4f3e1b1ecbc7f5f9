"""A real builder: TensorRT for RTX builds plans on a machine without a GPU, where its wheels are installed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from support import export_module, write_checkpoint
from torch import nn
from torchvision.models import resnet18

from compile.backend import Effort
from compile.backends import tensorrt
from compile.from_checkpoint import TorchNetwork
from compile.lower import lower
from compile.tensorrt.build_log import read_log
from compile.tensorrt.verdict import Verdict
from runtime.artifact import Target, open_artifact
from runtime.engine import load
from runtime.errors import ArtifactError
from runtime.trt import RTX, find, read_info
from st3.patterns import group_limit, parse_pattern, spread

pytestmark = pytest.mark.skipif(
    find(RTX) is None, reason="TensorRT for RTX is not installed (tensorrt-rtx-cu13-libs, tensorrt-rtx-cu13-bindings)"
)
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")


def two_of_four(module: nn.Module) -> nn.Module:
    pattern = parse_pattern("2:4")
    with torch.no_grad():
        for child in module.modules():
            if isinstance(child, (nn.Conv2d, nn.Linear)) and child.weight.shape[1] % 4 == 0:
                limit = spread(group_limit(child.weight, pattern), tuple(child.weight.shape), pattern)
                child.weight.mul_(child.weight.abs() > limit)
    return module


def test_a_two_of_four_resnet_18(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = (3, 64, 64)
    network = TorchNetwork(export_module(two_of_four(resnet18()), shape), shape, 1)
    told: list[str] = []
    built = tensorrt.build(network, Target("cuda", "sm_89", "float16", 1, 1), tmp_path, Effort(report=told.append))
    plan = tmp_path / "payload/model.plan"
    assert plan.stat().st_size > 20e6  # 11.7 million weights of two bytes
    info = read_info(tmp_path / "payload")
    assert (info.library, info.architecture) == (RTX, "sm_89")
    # the real log, parsed: it lists every layer, and has no word on sparsity
    log = read_log((tmp_path / "source/build.log").read_text().splitlines())
    assert (log.eligible, log.chosen) == (None, None)
    verdicts = msgspec.json.decode((tmp_path / "source/layers.json").read_bytes(), type=tuple[Verdict, ...])
    nodes = {node for layer in log.layers for node in layer.nodes}
    assert {verdict.layer for verdict in verdicts} <= nodes
    assert [verdict.layer for verdict in verdicts if not verdict.eligible] == ["conv1"]
    assert {form for form, _ in built.formats.values()} == {"dense"}  # nothing is claimed that nobody said
    assert built.formats["conv1"][1].startswith("3 input channels cannot be divided into groups of 4")
    assert "chooses the kernel when it loads the plan on a GPU" in built.formats["layer4.1.conv2"][1]
    assert len(built.deviations) == 1
    assert built.deviations[0] < 4e-3
    assert told[-1].startswith("TensorRT for RTX")


@without_gpu
def test_from_a_checkpoint_to_an_artifact(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "sparse", "st3", 0.5, "2:4")
    folder = lower(checkpoint, tmp_path, "tensorrt", (2,), 1, "sm_120", device="cuda", dtype="float16")
    manifest = open_artifact(folder).manifest
    assert (manifest.engine, manifest.target.architecture) == ("tensorrt", "sm_120")
    assert manifest.input.dtype == "float32"
    assert 1e-3 < manifest.tolerance.relative < 2e-2
    reasons = {layer.name: layer.reason for layer in manifest.layers}
    assert sum(reason.startswith("2:4; TensorRT for RTX") for reason in reasons.values()) >= len(reasons) - 2
    assert all(layer.macs_usable == layer.macs_dense for layer in manifest.layers)
    with pytest.raises(
        ArtifactError, match=r"^this artifact needs an NVIDIA GPU \(sm_120\), and torch finds none here$"
    ):
        load(folder)


def test_what_the_real_parser_refuses(tmp_path: Path) -> None:
    """A model that TensorRT cannot read is refused with its own words."""
    from onnx import TensorProto, helper

    from compile.tensorrt.builder import build_plan
    from runtime.errors import UserError

    library = find(RTX)
    assert library is not None
    node = helper.make_node("Nonsense", ["x"], ["y"], name="odd", domain="st3.test")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    model = helper.make_model(helper.make_graph([node], "odd", ends[:1], ends[1:]))
    model.opset_import.append(helper.make_opsetid("st3.test", 1))
    with pytest.raises(UserError, match=r"^TensorRT for RTX [\d.]+ cannot read the network: .*; use another backend$"):
        build_plan(library, model, "sm_89")
