"""A training loop of the user's own, to a checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import st3
from runtime.data import load_evaluation_set, write_evaluation_set
from runtime.errors import UserError


def trained() -> tuple[nn.Module, st3.Pruner]:
    """README's loop."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 4))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    pruner = st3.attach(model, st3.SparsityPlan(sparsity=0.9))
    for step in range(6):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(8, 3, 8, 8)), torch.randint(4, (8,))).backward()
        pruner.adjust_gradients()
        optimizer.step()
        pruner.step(step / 6)
    return model, pruner


def test_what_a_loop_of_ones_own_made_is_a_checkpoint(tmp_path: Path) -> None:
    model, pruner = trained()
    with pytest.raises(UserError, match="not baked"):
        st3.save(tmp_path / "c", model, pruner, (3, 8, 8))
    pruner.bake()
    st3.save(str(tmp_path / "c"), model, pruner, (3, 8, 8), (0.5,) * 3, (0.25,) * 3, ["a", "b", "c", "d"], 0.75)
    found = st3.load_checkpoint(tmp_path / "c")
    assert found.info.sparsity == pytest.approx(0.9, abs=0.01)
    assert (found.info.method, found.info.pattern, found.info.accuracy) == ("st3", "unstructured", 0.75)
    assert found.info.preprocessing.std == (0.25,) * 3
    pictures = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        expected = model.eval()(pictures)
        answer = found.exported_program().module()(pictures)
    assert torch.allclose(answer, expected, atol=1e-6)
    images, labels = np.zeros((2, 3, 8, 8), np.uint8), np.array([0, 3])
    write_evaluation_set(str(tmp_path / "e"), "mine", images, labels, found.info.preprocessing, ["a", "b", "c", "d"])
    assert len(load_evaluation_set(tmp_path / "e", verify=True)) == 2


def test_mistakes_are_named(tmp_path: Path) -> None:
    model, pruner = trained()
    pruner.bake()
    for given, message in (
        ({"accuracy": 75.0}, "90 % is 0.9"),
        ({"mean": (0.5,)}, "C values of mean and std"),
        ({"method": "st33"}, "unknown method 'st33'"),
    ):
        with pytest.raises(UserError, match=message):
            st3.save(tmp_path / "c", model, pruner, (3, 8, 8), **given)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
