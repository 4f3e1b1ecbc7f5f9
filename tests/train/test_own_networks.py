"""Networks by name: a function of the user's, torchvision's, timm's; and what is said of those that do not fit."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from runtime.errors import UserError
from st3.checkpoint import load_checkpoint
from st3.cli import main
from train import start
from train.network import Reference, answer_shapes, factory, parse_reference
from train.options import refer
from train.recipe import find_recipe

DATA = Path(__file__).parents[2] / "data/fashion-mnist"


def test_a_function_of_the_users_is_trained_and_named_in_the_checkpoint(own_nets: Path, evaluation: Path) -> None:
    arguments = [
        "train", "fashion-resnet8", "--model", "own_nets:small", "--model-arg", "width=6", "--sparsity", "0.5",
        "--max-steps", "3", "--threads", "1", "--data", str(DATA), "--evaluation", str(evaluation),
    ]  # fmt: skip
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    checkpoint = load_checkpoint(own_nets / "runs/fashion-resnet8/checkpoints/small-st3-unstructured-0.5")
    info = checkpoint.info
    assert (info.model, info.model_arguments) == ("own_nets:small", {"width": 6})
    assert info.layers[0].shape == (6, 1, 3, 3)
    assert info.sparsity == pytest.approx(0.5, abs=0.01)
    # the compiler needs the graph alone, not the function
    assert checkpoint.exported_program().module()(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    resumed = CliRunner().invoke(main, [*arguments, "--resume"])
    assert "already complete" in resumed.output
    other = CliRunner().invoke(main, [*arguments, "--resume", "--model-arg", "width=7"])
    assert "model_arguments {'width': 6} (asked for {'width': 7})" in other.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("own_nets:number", "own_nets:number returned int; a function for st3 returns a torch.nn.Module"),
        ("own_nets:unlucky", "own_nets:unlucky raised ValueError: no luck"),
        ("own_nets:small --model-arg depth=3", "raised TypeError: .*unexpected keyword argument 'depth'"),
        ("own_nets:missing", "own_nets has nothing of that name"),
        ("own_nets:torch.version", "own_nets has a module of that name"),
        ("nowhere.nets:small", "there is no module nowhere.nets in .*run st3 where that can be imported"),
        ("broken_nets:small", "broken_nets imports a_package_that_is_missing, which is not installed"),
        ("wrong_nets:small", "importing wrong_nets raised ZeroDivisionError"),
        ("own_nets:without_layers", "has no nn.Conv2d and no nn.Linear"),
        ("own_nets:Detector", "answers a batch of 2 with a list; .* give the backbone"),
        ("own_nets:Segmenter", r"cannot take the data's pictures .* = \(1, 28, 28\): .*another --image-size"),
        ("own_nets:small --model-arg classes=7", "with 7 numbers, and the data have 10 classes; .*num_classes=10"),
        ("resnet18", r"torchvision:resnet18 cannot take the data's pictures"),
        ("resnet1", r"torchvision has no network 'resnet1'; did you mean .*resnet18.*\?"),
        ("zzz", r"torchvision has no network 'zzz'; torchvision.models.list_models\(\) shows them"),
        ("own_nets:small --model-arg width", "--model-arg width: give key=value"),
        ("own_nets:small --weights DEFAULT", "--weights DEFAULT is for torchvision's and timm's networks"),
        ("resnet18 --weights BEST", "torchvision:resnet18 has IMAGENET1K_V1"),
        ("resnet18 --weights DEFAULT --init-from x", "contradict each other"),
        ("own_nets:small --image-size 64", "the pictures of fashion_mnist have one size"),
    ],
)
def test_a_network_that_does_not_fit_is_one_line(own_nets: Path, options: str, message: str) -> None:
    arguments = ["train", "fashion-resnet8", "--sparsity", "0.5", "--data", str(DATA), "--model", *options.split()]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    with pytest.raises(UserError, match=message):
        raise UserError(result.output)
    assert len(result.output.strip().splitlines()) == 1


def test_arguments_are_numbers_words_and_switches() -> None:
    pairs = ("width=32", "rate=0.5", "bias=false", "deep=True", "norm=batch", "names=1,2", "text=")
    assert parse_reference("resnet18", pairs) == Reference(
        "torchvision:resnet18",
        {"width": 32, "rate": 0.5, "bias": False, "deep": True, "norm": "batch", "names": "1,2", "text": ""},
    )
    assert parse_reference("a.b:c").short == "c"


def test_torchvision_networks_get_the_classes_and_no_second_classifier() -> None:
    model = factory(Reference("torchvision:googlenet"), 7)()
    model.train()
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 7)
    fixed = factory(Reference("torchvision:squeezenet1_1", {"num_classes": 3}), 7)()
    assert answer_shapes(fixed, "x", (3, 64, 64)) == {"output": (3,)}
    assert fixed.training


def test_a_segmentation_network_answers_with_its_map() -> None:
    with torch.random.fork_rng():
        model = factory(Reference("torchvision:lraspp_mobilenet_v3_large"), 7)()
    assert answer_shapes(model, "x", (3, 64, 64)) == {"output": (21, 64, 64)}


class Timm(SimpleNamespace):
    """What st3 calls of timm."""

    def __init__(self) -> None:
        super().__init__(is_model=lambda name: name.startswith("tiny"), list_models=lambda text: [f"near{text}"])

    def create_model(self, name: str, pretrained: bool = False, num_classes: int = 4, width: int = 2) -> nn.Module:
        model = nn.Sequential(
            nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes)
        )
        if pretrained:
            nn.init.ones_(model[0].weight)
        return model


def test_timm_networks_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"timm:tiny needs timm, which is not installed: pip install 'st3\[timm\]'"):
        factory(Reference("timm:tiny"), 7)
    monkeypatch.setitem(sys.modules, "timm", Timm())
    model = factory(Reference("timm:tiny", {"width": 3}), 7)()
    assert model[3].weight.shape == (7, 3)
    with pytest.raises(UserError, match=r"timm has no network 'huge'; near ones: near\*huge\*"):
        factory(Reference("timm:huge"), 7)
    source = start.zoo_weights(Reference("timm:tiny.a1"), "b2")
    assert source == start.start_digest(source) == "timm:tiny.b2"
    plain = factory(Reference("timm:tiny"), 7)()
    assert start.load_start(source, plain) == ["3.bias", "3.weight"]
    assert torch.equal(plain[0].weight, torch.ones(2, 3, 3, 3))


def test_a_zoos_classifier_for_other_classes_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    model = factory(Reference("torchvision:resnet18"), 7)()
    head = model.fc.weight.detach().clone()
    zoo = factory(Reference("torchvision:resnet18"), 1000)().state_dict()
    zoo["aux1.weight"] = torch.zeros(1)
    monkeypatch.setattr(start, "_download", lambda source: dict(zoo))
    recipe, source = refer(find_recipe("fashion-resnet8"), "resnet18", (), "DEFAULT", "")
    assert recipe.reference == Reference("torchvision:resnet18")
    assert source == "torchvision:ResNet18_Weights.DEFAULT"
    assert start.load_start(source, model) == ["fc.bias", "fc.weight"]
    assert torch.equal(model.fc.weight, head)
    assert torch.equal(model.conv1.weight, zoo["conv1.weight"])
    del zoo["bn1.weight"]
    with pytest.raises(UserError, match=r"another network than the one to train: it lacks bn1.weight \(1 in all\)"):
        start.load_start(source, model)


def test_arguments_need_a_network_of_their_own() -> None:
    with pytest.raises(UserError, match="--model-arg goes with --model"):
        refer(find_recipe("fashion-resnet8"), None, ("width=3",), None, "")
    with pytest.raises(UserError, match="--weights DEFAULT goes with --model"):
        refer(find_recipe("fashion-resnet8"), None, (), "DEFAULT", "")
    recipe, _ = refer(find_recipe("image-folder"), None, ("norm=1",), None, "")
    assert recipe.reference == Reference("torchvision:resnet18", {"norm": 1})
