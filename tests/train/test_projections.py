"""Training a network with torch's own attention: its projections are layers like the others, and old runs go on."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from train_toy import KilledError, fitted, job, same, with_values

import train.loop
from st3.layers import prunable_layers
from st3.parametrization import SparseWeight
from train.distributed import World
from train.evaluate import accuracy_of
from train.trainer import Execution, Trainer

LAYER = "attention.in_proj"


class Tokens(nn.Module):
    """Four patches of four pixels a side, attention, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 16, 4, 4)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True, dropout=0.1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x).flatten(2).transpose(1, 2)
        y = y + self.attention(y, y, y, need_weights=False)[0]
        return self.head(y.mean(1))


RECIPE = with_values(model=Tokens, ema=0.9)


def old_trainer(*given: Any) -> Trainer:
    """As it was before attention's projections were layers."""
    return Trainer(*given[:5], False)


@pytest.mark.parametrize(("method", "pattern"), [("st3", "unstructured"), ("rigl", "unstructured"), ("sr-ste", "2:4")])
@pytest.mark.parametrize("die_at", [8, 16])
def test_resuming_is_exact(method: str, pattern: str, die_at: int, tmp_path: Path) -> None:
    wanted = job(method, pattern, RECIPE, finetune_steps=6)
    whole = fitted(wanted, tmp_path / "whole").trainer
    with pytest.raises(KilledError):
        fitted(wanted, tmp_path / "killed", die_at=die_at)
    assert same(whole.state().tensors, fitted(wanted, tmp_path / "killed", resume=True).trainer.state().tensors)
    assert whole.pruner.patterns[LAYER] == (pattern, "")
    assert whole.pruner.sparsity()[LAYER] > 0.3


@pytest.mark.parametrize("method", ["dense", "st3"])
@pytest.mark.parametrize("die_at", [8, 16])
def test_a_run_that_began_with_dense_projections_goes_on_so(
    method: str, die_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = job(method, recipe=RECIPE, finetune_steps=6)
    with monkeypatch.context() as patch:
        patch.setattr(train.loop, "Trainer", old_trainer)
        whole = fitted(wanted, tmp_path / "whole").trainer
        with pytest.raises(KilledError):
            fitted(wanted, tmp_path / "killed", die_at=die_at)
    (state,) = (tmp_path / ".killed.training").glob("state-*/state.json")
    saved = json.loads(state.read_text())
    assert saved.pop("projections") is False
    state.write_text(json.dumps(saved))
    with pytest.raises(KilledError):  # a state of it that is written now says the same
        fitted(wanted, tmp_path / "killed", resume=True, die_at=die_at + 1)
    resumed = fitted(wanted, tmp_path / "killed", resume=True).trainer
    assert same(whole.state().tensors, resumed.state().tensors)
    assert resumed.pruner.sparsity()[LAYER] == 0
    assert resumed.pruner.patterns[LAYER] == ("dense", "the run began with a version that left it dense")


def test_a_training_begins_with_what_no_method_prunes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fitted(job(recipe=RECIPE), tmp_path / "x")
    weights, vectors = 16 * 16 + 4 * 16 * 16 + 16 * 10, 16 + 4 * 16 + 10
    said = f"{weights:,} of {weights + vectors:,} parameters can be pruned ("
    assert capsys.readouterr().err.count(said) == 1


def decayed(trainer: Trainer) -> list[str]:
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    group = trainer._optimizer.param_groups[0]
    assert group["weight_decay"] > 0
    return [names[id(parameter)] for parameter in group["params"]]


def test_projections_are_decayed_averaged_and_masked() -> None:
    given = (RECIPE, job(recipe=RECIPE, finetune_steps=6).settings, torch.device("cpu"), Execution(), World())
    trainer = Trainer(*given)
    own = "attention.parametrizations.in_proj_weight.original"
    assert own in decayed(trainer)
    assert not any("in_proj" in name for name in decayed(old_trainer(*given)))
    assert trainer.average is not None
    assert own in trainer.average.tensors()
    trainer.pruner.step(1.0)
    trainer.begin_finetune()
    layer = prunable_layers(trainer.model)[LAYER]
    zeros = layer.weight == 0
    assert 0.5 < float(zeros.float().mean()) < 1
    trainer.step(torch.randn(16, 1, 8, 8), torch.arange(16) % 10, 12)
    assert torch.equal(layer.weight == 0, zeros)


@pytest.mark.parametrize("parts", [1, 2])
def test_steps_and_validations_compute_each_effective_weight_once(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's attention asks for its weight three times: whether it is there, its dtype, its values."""
    wanted = job("st3", recipe=with_values(model=Tokens, accumulate=parts))
    trainer = Trainer(wanted.recipe, wanted.settings, torch.device("cpu"), Execution(), World())
    computed: Counter[tuple[int, ...]] = Counter()
    forward = SparseWeight.forward
    monkeypatch.setattr(
        SparseWeight, "forward", lambda self, weight: computed.update([tuple(weight.shape)]) or forward(self, weight)
    )
    trainer.step(torch.randn(4, 1, 16, 16), torch.zeros(4, dtype=torch.int64), 0)
    each = dict.fromkeys([(16, 1, 4, 4), (48, 16), (16, 16), (10, 16)], 1)
    assert computed == dict.fromkeys(each, parts)
    computed.clear()
    accuracy_of(trainer.model, [(torch.randn(2, 1, 16, 16), torch.zeros(2))] * 3)
    assert computed == each
