"""``st3 sparsify``: tuned and at once, from a checkpoint, a file, a function and a folder of pictures."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from torch import nn

from runtime.errors import UserError
from st3.checkpoint import load_checkpoint
from st3.cli import main
from st3.plan import SparsityPlan
from train.detect import data_key
from train.one_shot import prune_at_once, recalibrate
from train.weight_file import read_weights

ROOT = Path(__file__).parents[2]
DATA = ROOT / "data/fashion-mnist"


def sparsify(source: object, evaluation: Path, *more: str) -> dict[str, Any]:
    arguments = ["sparsify", str(source), "--threads", "1", "--data", str(DATA), "--evaluation", str(evaluation), *more]
    result = CliRunner().invoke(main, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


@pytest.fixture
def dense(own_nets: Path, evaluation: Path) -> Path:
    """A few dense steps of the user's own network."""
    arguments = [
        "train", "fashion-resnet8", "--model", "own_nets:small", "--method", "dense", "--max-steps", "40", "--threads",
        "1", "--data", str(DATA), "--evaluation", str(evaluation), "--out", "dense",
    ]  # fmt: skip
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return own_nets / "dense"


def test_both_ways_from_a_checkpoint_and_from_its_weights_alone(dense: Path, evaluation: Path) -> None:
    accuracy = load_checkpoint(dense).info.accuracy
    tuned = sparsify(dense, evaluation, "--sparsity", "0.5", "--max-steps", "6", "--out", "tuned")
    info = load_checkpoint(dense.parent / "tuned").info
    assert tuned["before"]["accuracy"] == accuracy
    assert tuned["after"]["accuracy"] == info.accuracy
    assert (info.method, info.steps, info.model, info.recipe) == ("st3", 6, "own_nets:small", "fashion-resnet8")
    assert info.sparsity == pytest.approx(0.5, abs=0.01)
    assert info.start == load_checkpoint(dense).info.files["weights.safetensors"]

    at_once = sparsify(dense, evaluation, "--sparsity", "0.5", "--one-shot", "--scope", "uniform")
    found = load_checkpoint(dense.parent / "runs/fashion-resnet8/checkpoints/dense-one-shot-unstructured-0.5-uniform")
    assert at_once["before"]["accuracy"] == accuracy
    assert at_once["after"]["accuracy"] == found.info.accuracy
    assert at_once["after"]["loss"] != at_once["pruned"]["loss"]
    assert at_once["recalibration_pictures"] == 2048
    assert at_once["prunable_weights"] == found.info.prunable
    assert [part["kind"] for part in at_once["beyond"]] == ["biases, normalisations and other vectors"]
    kept, original = found.weights(), load_checkpoint(dense).weights()
    for name in ("0.weight", "3.weight", "9.weight"):
        nonzero = kept[name] != 0
        assert 0.45 < nonzero.double().mean() < 0.55
        assert torch.equal(kept[name][nonzero], original[name][nonzero])
    assert not torch.equal(kept["1.running_mean"], original["1.running_mean"])

    file = sparsify(
        dense / "weights.safetensors", evaluation, "--model", "own_nets:small", "--sparsity", "0.5", "--one-shot",
        "--scope", "uniform", "--out", "file",
    )  # fmt: skip
    assert file["after"] == at_once["after"]
    assert load_checkpoint(dense.parent / "file").info.recipe == "sparsify-fashion-mnist"
    kept_old = sparsify(dense, evaluation, "--sparsity", "0.5", "--one-shot", "--recalibrate", "0", "--out", "old")
    assert kept_old["after"] == kept_old["pruned"]
    again = sparsify(dense.parent / "tuned", evaluation, "--max-steps", "2", "--pattern", "2:4", "--out", "again")
    assert again["before"]["accuracy"] == info.accuracy


def test_what_cannot_be_made_sparse_is_one_line(dense: Path, evaluation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = str(dense / "weights.safetensors")
    for arguments, message in (
        ([weights, "--data", str(DATA)], "holds weights and no network; name what builds it with --model"),
        ([weights, "--data", str(DATA), "--model", "own_nets:small", "--model-arg", "width=9"], "has another shape of"),
        (["nowhere/net"], "there is no checkpoint or file nowhere/net, and torchvision has no network 'nowhere/net'"),
        ([str(dense), "--data", str(DATA), "--out", str(dense)], "is the network that is read; give another folder"),
        ([str(DATA), "--data", str(DATA)], "is neither a checkpoint nor a file of weights"),
        (["own_nets:small"], "name the pictures that own_nets:small was trained on: --data FOLDER"),
        (["own_nets:small", "--data", str(dense)], "holds no data set that st3 knows"),
        ([str(dense), "--data", str(DATA), "--weights", "DEFAULT"], "has weights of its own"),
        ([str(dense), "--data", str(DATA), "--method", "magic"], "unknown method 'magic'"),
    ):
        result = CliRunner().invoke(main, ["sparsify", *arguments, "--evaluation", str(evaluation)])
        assert result.exit_code == 2
        assert message in result.output
        assert len(result.output.strip().splitlines()) == 1
    # its function is where the checkpoint was trained, not here
    monkeypatch.chdir(DATA)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(dense.parent)])
    monkeypatch.delitem(sys.modules, "own_nets", raising=False)
    result = CliRunner().invoke(main, ["sparsify", str(dense), "--data", str(DATA), "--evaluation", str(evaluation)])
    assert "--model own_nets:small: there is no module own_nets in" in result.output


def test_a_folder_of_pictures_from_training_to_a_sparse_network(own_nets: Path) -> None:
    script = [sys.executable, str(ROOT / "scripts/fake_imagenet.py"), "pictures", "--classes", "2", "--train", "6"]
    subprocess.run([*script, "--val", "3"], check=True)
    network = ["--model", "own_nets:small", "--model-arg", "channels=3", "--model-arg", "classes=2"]
    common = ["--data", "pictures", "--threads", "1", "--image-size", "32"]
    trained = CliRunner().invoke(
        main,
        ["sparsify", "own_nets:small", *network, *common, "--batch-size", "4", "--max-steps", "2", "--out", "tuned"],
    )
    assert trained.exit_code == 0, trained.output
    info = load_checkpoint(own_nets / "tuned").info
    assert (info.preprocessing.shape, info.classes, info.batch_size) == ((3, 32, 32), ("n00000000", "n00000001"), 4)
    assert info.evaluation.startswith("pictures-")
    segmenter = ["sparsify", "own_nets:Segmenter", *common, "--out", "segmenter"]
    maps = CliRunner().invoke(main, [*segmenter, "--one-shot", "--sparsity", "0.6"])
    assert maps.exit_code == 0, maps.output
    assert "accuracy not measured: the network does not answer with classes" in maps.output
    assert "; no method prunes biases, normalisations and other vectors " in maps.stderr
    found = load_checkpoint(own_nets / "segmenter")
    assert (found.info.classes, found.info.evaluation) == ((), "none")
    assert found.exported_program().module()(torch.zeros(1, 3, 32, 32))["out"].shape == (1, 5, 32, 32)
    refused = CliRunner().invoke(main, segmenter)
    assert "answers a picture with 5x32x32 and 3x32x32 numbers, and the data have 2 classes" in refused.output


def test_recalibration_is_the_mean_over_all_batches_and_touches_nothing_else() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)).train()
    model[2].eval()
    batches = [(torch.randn(4, 3, 5, 5) * 3 + 1, torch.zeros(4)) for _ in range(3)]
    assert recalibrate(model, batches) == 12
    pictures = torch.stack([images for images, _ in batches])
    torch.testing.assert_close(model[1].running_mean, pictures.mean((1, 3, 4)).mean(0))
    torch.testing.assert_close(
        model[1].running_var, torch.stack([images.var((0, 2, 3), unbiased=True) for images in pictures]).mean(0)
    )
    assert model[1].momentum == 0.1
    assert [module.training for module in model] == [True, True, False]
    assert recalibrate(nn.Conv2d(3, 2, 1), batches) == 0


def test_pruning_at_once_follows_pattern_and_scope() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 1), nn.Linear(8, 4))
    patterns = prune_at_once(model, SparsityPlan(pattern="2:4", exempt=("2",)))
    assert patterns["2"][1] == "exempt by the plan"
    assert (model[0].weight.reshape(8, 4, 9) != 0).sum(1).eq(2).all()
    assert (model[2].weight != 0).all()


def test_files_of_weights(tmp_path: Path) -> None:
    weights = {"a.weight": torch.arange(3.0), "b": torch.ones(2, dtype=torch.int64)}
    safetensors.torch.save_file(weights, tmp_path / "plain.safetensors")
    torch.save({f"module.{name}": value for name, value in weights.items()}, tmp_path / "wrapped.pt")
    torch.save({"epoch": 3, "state_dict": weights}, tmp_path / "nested.pth")
    for name in ("plain.safetensors", "wrapped.pt", "nested.pth"):
        found = read_weights(tmp_path / name)
        assert found.keys() == weights.keys()
        assert torch.equal(found["a.weight"], weights["a.weight"])
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps({"a": print}))
    (tmp_path / "short.safetensors").write_bytes(b"abc")
    torch.save({"a": 3}, tmp_path / "numbers.pt")
    for name, message in (
        ("module.pt", r"cannot be read as plain weights \(it is damaged, or holds pickled objects"),
        ("pickle.pt", "cannot be read as plain weights"),
        ("short.safetensors", "cannot be read as plain weights"),
        ("numbers.pt", "holds no state dict"),
        ("none.pt", "is missing"),
    ):
        with pytest.raises(UserError, match=message):
            read_weights(tmp_path / name)


def test_a_data_set_is_known_by_its_files(tmp_path: Path) -> None:
    assert data_key(DATA) == "fashion_mnist"
    (tmp_path / "train/a").mkdir(parents=True)
    assert data_key(tmp_path) == "image_folder"
    (tmp_path / "wnids.txt").touch()
    assert data_key(tmp_path) == "tiny_imagenet"
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert data_key(tmp_path) == "cifar10"
