"""The trainer's step on an NVIDIA GPU, eager and captured; skipped where there is none."""

from __future__ import annotations

import msgspec
import pytest
import torch
from torch import nn

import st3
from st3.registry import method_names
from train.distributed import World
from train.recipe import find_recipe
from train.settings import Settings
from train.trainer import Execution, Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU, torch finds none"),
]


@pytest.mark.parametrize("method", method_names())
def test_a_captured_step_computes_what_an_eager_one_does(method: str) -> None:
    """Dropout included: the captured step must draw from the seed of its own step, not from the capture's."""
    losses = []
    for graph in (False, True):
        recipe = msgspec.structs.replace(find_recipe("fashion-resnet8"), model=_with_dropout, ema=0.9)
        plan = (
            st3.SparsityPlan(pattern="2:4")
            if method in ("sr-ste", "s-ste")
            else st3.SparsityPlan(sparsity=0.0 if method == "dense" else 0.8)
        )
        settings = Settings("toy", "", method, plan, 1.0, 40, 32, 0)
        trainer = Trainer(recipe, settings, torch.device("cuda"), Execution(graph=graph), World())
        random = torch.Generator("cuda").manual_seed(0)
        for step in range(30):
            images = torch.randn(32, 1, 28, 28, device="cuda", generator=random)
            trainer.step(images, torch.arange(32, device="cuda") % 10, step)
            losses.append(trainer.totals(32))
    eager, captured = losses[:30], losses[30:]
    for left, right in zip(eager, captured, strict=True):
        assert right.loss == pytest.approx(left.loss, rel=2e-2)
        assert right.sparsity == pytest.approx(left.sparsity, abs=2e-3)
        assert not right.bad
    # without dropout's own seed per step the first losses would differ by far more than rounding
    assert [row.loss for row in captured[:8]] == pytest.approx([row.loss for row in eager[:8]], rel=1e-3)


def test_the_whole_step_waits_for_nothing() -> None:
    recipe = find_recipe("fashion-resnet8")
    settings = Settings("toy", "", "st3", st3.SparsityPlan(sparsity=0.8), 1.0, 40, 32, 0)
    trainer = Trainer(recipe, settings, torch.device("cuda"), Execution(), World())
    images, labels = torch.randn(32, 1, 28, 28, device="cuda"), torch.arange(32, device="cuda") % 10
    for step in range(3):
        trainer.step(images, labels, step)
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.step(images, labels, 3)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _with_dropout() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(16 * 169, 32),
        nn.Linear(32, 10),
    )
