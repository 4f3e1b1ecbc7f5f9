"""The methods and the training stage on an NVIDIA GPU; skipped where there is none."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import st3
from st3.cli import main
from st3.layers import prunable_layers
from st3.parametrization import latent
from st3.registry import find_method, method_names
from st3.thresholds import Segments, quantiles

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU, torch finds none"),
]
DATA = Path(__file__).parent.parent.parent / "data" / "fashion-mnist"
PLANS = {
    "unstructured": st3.SparsityPlan(sparsity=0.9),
    "erk": st3.SparsityPlan(sparsity=0.8, scope="erk"),
    "uniform": st3.SparsityPlan(sparsity=0.8, scope="uniform"),
    "2:4": st3.SparsityPlan(pattern="2:4"),
    "1:8": st3.SparsityPlan(pattern="1:8"),
    "1x4": st3.SparsityPlan(sparsity=0.8, pattern="1x4"),
    "channel": st3.SparsityPlan(sparsity=0.5, pattern="channel"),
}
CASES = [
    (method, name)
    for method in method_names()
    for name, plan in PLANS.items()
    if method != "dense"
    and plan.groups.kind in find_method(method).PATTERNS
    and plan.scope_kind in find_method(method).SCOPES
]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(8, 18, 3, bias=False), nn.BatchNorm2d(18), nn.ReLU(), nn.Conv2d(18, 18, 3, groups=18),
        nn.Conv2d(18, 32, 1), nn.Flatten(), nn.Linear(32, 24), nn.Linear(24, 7),
    )  # fmt: skip


def gradients(model: nn.Module, seed: int) -> None:
    """The same random gradients on every device: a GPU's own would differ in the last bits, and so would weights."""
    random = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=random).to(parameter.device) * 0.01


def step(model: nn.Module, pruner: st3.Pruner, number: int) -> None:
    gradients(model, number)
    pruner.adjust_gradients()
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.sub_(parameter.grad)
    pruner.step((number + 1) / 8)


@pytest.mark.parametrize(("method", "plan"), CASES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_masks_on_the_gpu_are_those_on_the_cpu(method: str, plan: str, layout: torch.memory_format) -> None:
    models = [network(), network().to(device="cuda", memory_format=layout)]
    pruners = [st3.attach(model, PLANS[plan], method=method) for model in models]
    for model, pruner in zip(models, pruners, strict=True):
        for number in range(8):
            step(model, pruner, number)
    layers = [prunable_layers(model) for model in models]
    for name in layers[0]:
        cpu, gpu = layers[0][name].weight, layers[1][name].weight.cpu()
        assert torch.equal(cpu == 0, gpu == 0), name
        torch.testing.assert_close(gpu, cpu, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("method", "plan"), CASES)
def test_a_step_waits_for_nothing_and_can_be_replayed_from_a_graph(method: str, plan: str) -> None:
    model = network().cuda()
    pruner = st3.attach(model, PLANS[plan], method=method)
    plain = copy.deepcopy(model.state_dict())
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(2):  # Triton compiles, the allocator warms up
            gradients(model, 0)
            pruner.adjust_gradients()
            pruner.step(0.001)
    torch.cuda.synchronize()
    assert pruner.capturable
    gradients(model, 0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        pruner.adjust_gradients()
        pruner.step(0.002)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    gradients(model, 0)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        pruner.adjust_gradients()
        pruner.update()
    reference = network().cuda()
    other = st3.attach(reference, PLANS[plan], method=method)
    for both in (model, reference):
        both.load_state_dict(plain)
    for weights in (prunable_layers(model), prunable_layers(reference)):
        for number, layer in enumerate(weights.values()):
            random = torch.Generator().manual_seed(number)
            latent(layer).data.add_(torch.randn(layer.weight.shape, generator=random).cuda() * 0.1)
    pruner.aim(0.4)
    graph.replay()
    gradients(reference, 0)
    other.adjust_gradients()
    other.step(0.4)
    for name, value in reference.state_dict().items():
        if not name.endswith("clock"):
            assert torch.equal(model.state_dict()[name], value), name


@pytest.mark.parametrize("count", [1, 1000, 8192, 3_000_001])
def test_quantiles_on_the_gpu_are_those_on_the_cpu(count: int) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(count)).abs()
    fractions = torch.tensor([0.0], dtype=torch.float64)
    for fraction in (0.0, 0.5, 0.9, 0.99, 1.0):
        for data in (values, (values * 8).round() / 8, torch.zeros_like(values)):
            results: list[Tensor] = []
            for device in ("cpu", "cuda"):
                segments = Segments((count,), torch.device(device))
                wanted = fractions.to(device).fill_(fraction)
                results.append(quantiles(data.to(device), wanted, segments).cpu())
            torch.testing.assert_close(results[0], results[1], rtol=3e-7, atol=0)


def test_a_checkpoint_trained_on_the_gpu_runs_on_the_cpu(tmp_path: Path) -> None:
    arguments = ["train", "fashion-resnet8", "--sparsity", "0.9", "--epochs", "0.2", "--device", "cuda", "--json"]
    folders = ["--data", str(DATA), "--out", str(tmp_path / "c"), "--evaluation", str(tmp_path / "e")]
    result = CliRunner().invoke(main, [*arguments, *folders], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["accuracy"] > 0.5
    program = st3.load_checkpoint(tmp_path / "c").exported_program()
    assert program.module()(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
