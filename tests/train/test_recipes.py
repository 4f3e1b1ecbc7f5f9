from __future__ import annotations

import msgspec
import pytest
import torch

from runtime.errors import UserError
from train.models.resnet_cifar import resnet_cifar
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
    with pytest.raises(UserError, match="choose one of cifar10-resnet20, fashion-resnet8, imagenet-resnet50"):
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
