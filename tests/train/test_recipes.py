from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
import torch
from torch import nn

from runtime.errors import UserError
from st3.layers import prunable_weights
from train.models.mobilenet_v1 import mobilenet_v1
from train.models.resnet_cifar import resnet_cifar
from train.models.vgg_cifar import vgg_cifar
from train.models.wide_resnet import wide_resnet
from train.rates import cosine, steps
from train.recipe import digest, find_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_complete(name: str) -> None:
    recipe = find_recipe(name)
    with torch.device("meta"):
        model = recipe.model()
    assert sum(parameter.numel() for parameter in model.parameters()) > 50_000
    assert 0 <= recipe.begin < recipe.end < 1
    factors = [recipe.rate(step / 1000) for step in range(1000)]
    assert max(factors) == pytest.approx(1, abs=1e-3)
    assert factors[-1] < 0.02


def test_the_authors_settings() -> None:
    imagenet, cifar = find_recipe("imagenet-resnet50"), find_recipe("cifar10-resnet20")
    assert (imagenet.learning_rate, imagenet.momentum, imagenet.weight_decay) == (0.2, 0.875, 5e-5)
    assert (imagenet.begin, imagenet.end, imagenet.epochs, imagenet.batch_size) == (0.05, 0.5, 100, 512)
    assert (imagenet.label_smoothing, imagenet.precision, imagenet.clip_norm) == (0.1, "fp16", 3.0)
    assert (cifar.learning_rate, cifar.momentum, cifar.weight_decay) == (0.1, 0.9, 1e-4)
    assert (cifar.begin * 160, cifar.end * 160, cifar.epochs, cifar.batch_size) == (5, 80, 160, 128)
    assert [cifar.rate(epoch / 160) for epoch in (0, 79, 80, 119, 120, 159)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )


def test_settings_of_the_other_papers() -> None:
    wide, vgg, mobile = (find_recipe(name) for name in ("cifar100-wrn34-2", "cifar10-vgg19", "imagenet-mobilenetv1"))
    resnet = find_recipe("cifar10-resnet20")
    assert msgspec.structs.replace(wide, data=resnet.data, model=resnet.model, rate=resnet.rate) == resnet
    assert (vgg.learning_rate, vgg.momentum, vgg.nesterov, vgg.weight_decay) == (0.1, 0.9, True, 5e-4)
    assert (vgg.epochs, vgg.batch_size, vgg.begin * 160, vgg.end * 160) == (160, 100, 5, 80)
    assert (mobile.learning_rate, mobile.momentum, mobile.weight_decay) == (0.256, 0.875, 2**-15)
    assert mobile.weight_decay == pytest.approx(0.00003051757813)
    assert (mobile.epochs, mobile.batch_size, mobile.label_smoothing) == (100, 256, 0.1)


@pytest.mark.parametrize(
    ("model", "parameters", "prunable", "published"),
    [
        # the method's sheet: 270,896 prunable
        (lambda: resnet_cifar(20), 272_474, 270_896, 0.27),
        # Liu et al. 2019, "Rethinking the value of network pruning", table 6: 20.04 M
        (lambda: vgg_cifar(19), 20_035_018, 20_024_000, 20.04),
        # Zagoruyko and Komodakis 2016, tables 4 and 5: 11.0 M, 36.5 M; 8.9 M
        (lambda: wide_resnet(16, 8), 10_961_370, 10_954_160, 11.0),
        (lambda: wide_resnet(28, 10), 36_479_194, 36_461_232, 36.5),
        (lambda: wide_resnet(40, 4), 8_949_210, 8_938_416, 8.9),
        (lambda: wide_resnet(34, 2, 0.2, classes=100), 1_867_188, 1_862_576, None),
        # the README of STR's code: 4.21 M that can be pruned
        (mobilenet_v1, 4_231_976, 4_209_088, 4.21),
    ],
    ids=["resnet20", "vgg19", "wrn16-8", "wrn28-10", "wrn40-4", "wrn34-2", "mobilenetv1"],
)
def test_parameters_are_the_published_ones(
    model: Callable[[], nn.Module], parameters: int, prunable: int, published: float | None
) -> None:
    with torch.device("meta"):
        network = model()
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert prunable_weights(network) == prunable
    if published is not None:
        assert min(abs(count / 1e6 - published) for count in (parameters, prunable)) < 0.06


def test_macs_of_mobilenetv1_are_the_published_ones() -> None:
    """569 M for a picture of 224 x 224 (Howard et al. 2017, table 4; the README of STR's code)."""
    macs = 0

    def count(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        nonlocal macs
        assert isinstance(module, nn.Conv2d | nn.Linear)
        macs += module.weight.numel() * output.shape[2:].numel()

    with torch.device("meta"):
        network = mobilenet_v1().eval()
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(count)
        assert network(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
    assert macs == pytest.approx(569e6, abs=0.5e6)


def test_dropout_is_within_the_wide_blocks() -> None:
    network = wide_resnet(10, 1, dropout=0.5, classes=100)
    drops = [module for module in network.modules() if isinstance(module, nn.Dropout)]
    assert [drop.p for drop in drops] == [0.5] * 3
    picture = torch.ones(2, 3, 32, 32)
    assert not torch.equal(network(picture)[0], network(picture)[0])
    network.eval()
    assert torch.equal(network(picture), network(picture))
    assert network(picture).shape == (2, 100)


@pytest.mark.parametrize(
    ("build", "message"),
    [(lambda: wide_resnet(35, 2), "got 35"), (lambda: vgg_cifar(18), "one of 16, 19, got 18")],
)
def test_models_refuse_other_depths(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_vgg_halves_the_map_four_times() -> None:
    network = vgg_cifar(16, classes=7).eval()
    assert network.features(torch.zeros(1, 3, 32, 32)).shape == (1, 512, 2, 2)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_digest_changes_with_every_value() -> None:
    recipe = find_recipe("fashion-resnet8")
    others = [
        msgspec.structs.replace(recipe, learning_rate=0.123),
        msgspec.structs.replace(recipe, rate=cosine(warmup=0.3)),
        msgspec.structs.replace(recipe, model=lambda: resnet_cifar(8, 5, 1)),
        msgspec.structs.replace(recipe, end=0.55),
    ]
    assert digest(recipe) == digest(find_recipe("fashion-resnet8"))
    assert len({digest(recipe), *map(digest, others)}) == 5


def test_unknown_recipe_lists_the_valid_ones() -> None:
    with pytest.raises(
        UserError,
        match="choose one of cifar10-resnet20, cifar10-vgg19, cifar100-wrn34-2, fashion-resnet8, image-folder",
    ):
        find_recipe("mnist")


def test_cosine_by_hand() -> None:
    assert [cosine(warmup=0.2)(t) for t in (0, 0.1, 0.2, 0.6, 1)] == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_steps_by_hand() -> None:
    rate = steps((0.5, 0.75), 0.1)
    assert [rate(t) for t in (0, 0.5, 0.8)] == pytest.approx([1, 0.1, 0.01])


@pytest.mark.parametrize(("depth", "side"), [(8, 28), (14, 32)])
def test_resnet_takes_any_side(depth: int, side: int) -> None:
    model = resnet_cifar(depth, width=4, channels=1).eval()
    assert model(torch.zeros(2, 1, side, side)).shape == (2, 10)


def test_resnet_refuses_other_depths() -> None:
    with pytest.raises(ValueError, match="got 10"):
        resnet_cifar(10)
