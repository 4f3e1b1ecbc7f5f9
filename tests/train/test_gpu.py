"""The method and the training stage on an NVIDIA GPU; skipped where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import st3
from st3.cli import main

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU, torch finds none"),
]
DATA = Path(__file__).parent.parent.parent / "data" / "fashion-mnist"


@pytest.mark.parametrize("plan", [st3.SparsityPlan(sparsity=0.9), st3.SparsityPlan(pattern="2:4")], ids=str)
@pytest.mark.parametrize("method", ["st3", "st3-sigma", "gmp", "ste"])
def test_masks_on_the_gpu_are_those_on_the_cpu(method: str, plan: st3.SparsityPlan) -> None:
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(64, 32)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    models[1].cuda()
    for model in models:
        st3.attach(model, plan, method=method).step(1.0)
    for layer in (0, 2):
        cpu, gpu = models[0][layer].weight, models[1][layer].weight.cpu()
        assert torch.equal(cpu == 0, gpu == 0)
        assert torch.allclose(cpu, gpu, rtol=1e-5)


def test_a_checkpoint_trained_on_the_gpu_runs_on_the_cpu(tmp_path: Path) -> None:
    arguments = ["train", "fashion-resnet8", "--sparsity", "0.9", "--epochs", "0.2", "--device", "cuda", "--json"]
    folders = ["--data", str(DATA), "--out", str(tmp_path / "c"), "--evaluation", str(tmp_path / "e")]
    result = CliRunner().invoke(main, [*arguments, *folders], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["accuracy"] > 0.5
    program = st3.load_checkpoint(tmp_path / "c").exported_program()
    assert program.module()(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
