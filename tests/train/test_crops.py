"""Crops as a function of the place: inside the picture, distributed as torchvision's."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import v2

from train.crops import random_crops

COUNT = 4000


def crops(height: int, width: int, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    return random_crops(seed, torch.arange(COUNT), torch.full((COUNT,), height), torch.full((COUNT,), width))


@pytest.mark.parametrize(("height", "width"), [(300, 400), (500, 200), (40, 30)])
def test_crops_are_distributed_as_torchvisions(height: int, width: int) -> None:
    torch.manual_seed(0)
    module, image = v2.RandomResizedCrop(224), torch.zeros(3, height, width)
    theirs = [module.make_params([image]) for _ in range(COUNT)]
    expected = torch.tensor([[one[name] for name in ("top", "left", "height", "width")] for one in theirs]).double()
    boxes, mirrored = crops(height, width)
    assert (boxes >= 0).all()
    assert (boxes[:, 0] + boxes[:, 2] <= height).all()
    assert (boxes[:, 1] + boxes[:, 3] <= width).all()
    found = boxes.double()
    # five standard errors of a difference of means
    error = 5 * (2 * expected.var(0) / COUNT).sqrt()
    assert ((found.mean(0) - expected.mean(0)).abs() < error).all()
    assert torch.allclose(found.std(0), expected.std(0), rtol=0.08)
    assert torch.allclose(torch.corrcoef(found.T), torch.corrcoef(expected.T), atol=0.1)
    assert mirrored.double().mean().item() == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize(("height", "width", "box"), [(1000, 10, [493, 0, 13, 10]), (10, 1000, [0, 493, 10, 13])])
def test_a_picture_too_narrow_for_a_crop_shows_its_middle(height: int, width: int, box: list[int]) -> None:
    assert crops(height, width)[0].unique(dim=0).tolist() == [box]


def test_crops_follow_from_seed_and_place() -> None:
    size = torch.tensor([300, 300])
    both = random_crops(5, torch.tensor([8, 9]), size, size)
    one = random_crops(5, torch.tensor([9]), size[:1], size[:1])
    assert torch.equal(both[0][1:], one[0])
    assert not torch.equal(both[0][0], both[0][1])
    assert not torch.equal(random_crops(6, torch.tensor([9]), size[:1], size[:1])[0], one[0])
