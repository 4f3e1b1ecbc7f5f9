"""Every method that there is trains the default recipe's network, meets its sparsity, and goes on bit for bit."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from train_toy import KilledError, run, same

from runtime.data import Preprocessing
from st3.layers import prunable_layers
from st3.plan import SparsityPlan
from st3.registry import method_names
from train.data.fashion_mnist import CLASSES
from train.loop import Job
from train.memory import MemoryDataset, flip
from train.models.resnet_cifar import resnet_cifar
from train.recipe import digest, find_recipe
from train.settings import Settings

_STEPS = 60
_N_TO_M = ("sr-ste", "s-ste")
"""Methods for an N:M pattern only."""


def _pictures() -> MemoryDataset:
    """Noise on a different grey for each class, a quarter of Fashion-MNIST's sides."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, 320)
    images = (random.integers(0, 60, (320, 1, 14, 14)) + labels[:, None, None, None] * 15).astype(np.uint8)
    preprocessing = Preprocessing(shape=(1, 14, 14), mean=(0.2860,), std=(0.3530,))
    return MemoryDataset("toy/test", preprocessing, CLASSES, (images, labels), lambda: (images, labels), flip)


def _job(method: str) -> Job:
    # the default recipe as it is, but for a narrow network and small batches: sixty steps in a second
    recipe = msgspec.structs.replace(
        find_recipe("fashion-resnet8"), model=lambda: resnet_cifar(8, width=8, channels=1), batch_size=16
    )
    schedule = {"begin": recipe.begin, "end": recipe.end}
    if method in _N_TO_M:
        plan = SparsityPlan(pattern="2:4", **schedule)
    else:
        plan = SparsityPlan(sparsity=0.0 if method == "dense" else 0.9, **schedule)
    settings = Settings(
        recipe="toy",
        recipe_digest=digest(recipe),
        method=method,
        plan=plan,
        epochs=3.0,
        steps=_STEPS,
        batch_size=16,
        seed=0,
        finetune_steps=4,
    )
    return Job(recipe, settings, _pictures(), torch.device("cpu"), save_every=10)


@pytest.mark.parametrize("method", method_names())
def test_sixty_steps_meet_the_sparsity_and_resume_exactly(method: str, tmp_path: Path) -> None:
    wanted = _job(method)
    whole = run(wanted, tmp_path / "whole")
    log = [msgspec.json.decode(line) for line in (tmp_path / ".whole.training/log.jsonl").read_bytes().splitlines()]
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]
    target = wanted.settings.plan.target
    ready = [row["sparsity"] for row in log if row["step"] >= wanted.settings.plan.end * _STEPS + 1]
    sizes = {name: layer.weight.numel() for name, layer in prunable_layers(whole.model).items()}
    pruned = sum(sizes[name] for name, (_, reason) in whole.pruner.patterns.items() if not reason)
    zeros = target * pruned / sum(sizes.values())
    slack = 2e-3 if method != "str" else 0.02  # its thresholds are learned
    assert ready
    assert ready == pytest.approx([zeros] * len(ready), abs=slack)
    # one run that dies in the ramp and again in the fine-tuning
    for die_at in (20, 64):
        with pytest.raises(KilledError):
            run(wanted, tmp_path / "killed", resume=die_at > 20, die_at=die_at)
    resumed = run(wanted, tmp_path / "killed", resume=True)
    assert same(whole.state().tensors, resumed.state().tensors)
