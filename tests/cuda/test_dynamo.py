"""The backend of torch.compile: what is swapped, what it answers, and what it refuses."""

from __future__ import annotations

import importlib.metadata

import pytest
import torch
from fakes import KeptColumns
from networks import small_network
from support import prune_randomly
from torch import nn

from compile.cuda import dynamo


@pytest.fixture
def model() -> nn.Module:
    torch._dynamo.reset()
    return prune_randomly(small_network(), 0.3).eval()


def test_the_backend_answers_like_torch(
    model: nn.Module, kept_columns: KeptColumns, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def prefer_sparse(sites: dict, effort: object) -> dict:
        found = choose(sites, effort)
        for name, site in sites.items():
            offered = dynamo.offer(site, 1).candidates
            if "kept_columns" in offered:
                found[name] = type(found[name])(offered["kept_columns"][0], "forced", found[name].dense)
                seen.append(site.layer)
        return found

    choose = dynamo.choose
    monkeypatch.setattr(dynamo, "choose", prefer_sparse)
    compiled = torch.compile(model, backend=dynamo.st3)
    inputs = torch.randn(4, 3, 12, 12)
    with torch.no_grad():
        expected, result = model(inputs), compiled(inputs)
    assert len(seen) == 10  # every layer of the network: batch normalisation is folded, nothing else has weights
    assert torch.allclose(result, expected, atol=1e-5)


def test_training_is_refused(model: nn.Module) -> None:
    compiled = torch.compile(model, backend=dynamo.st3)
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match=r"is for inference: bake the model"):
        compiled(torch.randn(2, 3, 12, 12))


def test_the_entry_point_is_declared() -> None:
    from pathlib import Path

    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    declared = importlib.metadata.EntryPoint("st3", "compile.cuda.dynamo:st3", "torch_dynamo_backends")
    assert f'[project.entry-points.torch_dynamo_backends]\nst3 = "{declared.value}"' in text
    assert declared.load() is dynamo.st3
