"""Networks that nobody trained: pruned where and as much as was asked, with answers that can be compared."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from runtime.data import load_evaluation_set
from runtime.errors import UserError
from st3.checkpoint import load_checkpoint
from st3.layers import prunable_layers
from st3.patterns import TWO_OF_FOUR
from train.densities import parse_weights
from train.untrained import is_depthwise, main, make_network, prune, prune_groups, write_noise, write_untrained

SIDE = 32


def test_pruning_keeps_the_largest() -> None:
    weight = torch.tensor([[0.1, -5.0, 2.0], [-0.2, 0.3, -3.0]])
    prune(weight, 0.5)
    assert weight.tolist() == [[0.0, -5.0, 2.0], [0.0, 0.0, -3.0]]
    prune(weight, 1.0)
    assert torch.count_nonzero(weight) == 3


def test_two_of_four_keeps_the_largest_of_each_four_inputs() -> None:
    weight = torch.tensor([[0.1, -5.0, 2.0, 3.0, 1.0, 0.5, -0.2, 0.3]])
    prune_groups(weight, TWO_OF_FOUR)
    assert weight.tolist() == [[0.0, -5.0, 0.0, 3.0, 1.0, 0.5, 0.0, 0.0]]
    odd = torch.randn(2, 3, 7, 7)
    prune_groups(odd, TWO_OF_FOUR)
    assert torch.count_nonzero(odd) == odd.numel()


def test_every_layer_has_its_density_but_depthwise_ones_are_dense() -> None:
    model = make_network("mobilenet_v2", parse_weights("u_90"), SIDE)
    depthwise = 0
    for name, layer in prunable_layers(model).items():
        kept = torch.count_nonzero(layer.weight).item()
        if is_depthwise(layer):
            depthwise += 1
            assert kept == layer.weight.numel(), name
        else:
            assert kept == round(layer.weight.numel() * 0.1), name
    assert depthwise == 17


def test_activations_keep_their_size_and_the_network_is_the_same_each_time() -> None:
    pictures = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    answers = []
    for _ in range(2):
        model = make_network("resnet18", parse_weights("st3_90"), SIDE)
        assert not model.training
        with torch.no_grad():
            answers.append(model(pictures))
    assert torch.equal(answers[0], answers[1])
    assert 0.01 < answers[0].abs().max().item() < 100
    # two pictures, two answers: what the layers compute has not died out
    assert (answers[0][0] - answers[0][1]).abs().max() > 0.01 * answers[0].abs().max()


def test_checkpoint_and_noise_fit_each_other(tmp_path: Path) -> None:
    write_untrained(tmp_path, "resnet18", "u_90", SIDE)
    write_noise(tmp_path / "evaluation", SIDE)
    info = load_checkpoint(tmp_path / "u_90").info
    evaluation = load_evaluation_set(tmp_path / "evaluation", verify=True)
    assert info.preprocessing == evaluation.info.preprocessing
    assert info.classes == evaluation.info.classes
    assert len(evaluation) == 16
    assert (info.method, info.pattern, info.target_sparsity) == ("uniform", "unstructured", 0.9)
    assert info.sparsity == pytest.approx(0.9, abs=1e-4)


def test_an_unknown_network_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no network 'resnet5'; it has .*, resnet50, "):
        make_network("resnet5", parse_weights("dense"), SIDE)
    result = CliRunner().invoke(main, ["resnet18", "dense", "st3_100", "--out", str(tmp_path / "checkpoints")])
    assert isinstance(result.exception, UserError)
    assert not (tmp_path / "checkpoints").exists()  # refused before anything is made
