"""Checkpoints of torchvision's networks with random sparse weights, to measure engines on without training a network.

``python -m train.untrained resnet50 dense st3_90 --out FOLDER`` writes ``FOLDER/dense``, ``FOLDER/st3_90`` and an
evaluation set of noise, ``FOLDER/../evaluation``. How long a network takes depends on where its zeros are and on
nothing else about its weights.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor, nn

from runtime.data import Preprocessing, write_evaluation_set
from runtime.errors import UserError
from st3.checkpoint import write_checkpoint
from st3.layers import Prunable, prunable_layers
from st3.patterns import Pattern, group_limit, reject, spread
from st3.plan import SparsityPlan
from train.densities import LayerSize, Weights, densities, parse_weights
from train.seeds import derive, generator
from train.untrained_facts import untrained_info

PICTURES = 16
SIDE = 224
CLASSES = 1000
_PREPROCESSING = Preprocessing((3, SIDE, SIDE), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 256)
_CALIBRATION_PICTURES = 4
_SEED = 0


def make_network(name: str, weights: Weights, side: int = SIDE) -> nn.Module:
    """A network of torchvision's in eval mode: its own initialisation, pruned by magnitude, layer by layer.

    Depthwise convolutions stay dense: nine weights a channel leave nothing to prune. Batch normalisations hold the
    statistics of noise pictures, so that activations keep their size through the layers.

    Args:
        name: as ``torchvision.models.get_model`` knows it.
        weights: which share of which layer is kept.
        side: height and width in pixels of the noise pictures.

    Raises:
        UserError: torchvision has no such network for pictures of one size and ``CLASSES`` classes.
    """
    torch.manual_seed(derive(_SEED, "weights"))
    model = _torchvision(name)
    fill_zero_weights(model)
    layers = {name: layer for name, layer in prunable_layers(model).items() if not is_depthwise(layer)}
    sizes = {name: LayerSize(layer.weight.numel(), layer.weight[0].numel()) for name, layer in layers.items()}
    with torch.no_grad():
        for layer_name, density in densities(weights, sizes).items():
            prune(layers[layer_name].weight, density)
        _calibrate(model, side)
    return model.eval()


def fill_zero_weights(model: nn.Module) -> None:
    """Give matrices that begin as zeros, such as the head of a ViT, numbers: else every answer would be zero."""
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.02)


def is_depthwise(layer: Prunable) -> bool:
    """Whether each output channel reads one input channel."""
    module = layer.module
    return isinstance(module, nn.Conv2d) and module.groups > 1 and module.groups == module.in_channels


def prune(weight: Tensor, density: float) -> None:
    """Set all but the ``density`` largest magnitudes to zero, in place."""
    dropped = weight.numel() - round(weight.numel() * density)
    if dropped:
        smallest = torch.topk(weight.abs().flatten(), dropped, largest=False).indices
        weight.view(-1)[smallest] = 0.0


def prune_groups(weight: Tensor, pattern: Pattern) -> None:
    """Keep the N largest magnitudes of each M consecutive input channels, in place, where these divide into groups."""
    if not reject(tuple(weight.shape), pattern):
        weight[weight.abs() <= spread(group_limit(weight, pattern), weight.shape, pattern)] = 0.0


def write_untrained(folder: Path, network: str, name: str, side: int = SIDE) -> None:
    """Write the checkpoint ``folder/name``; accuracy and loss are 0, as it never saw a picture of anything."""
    weights = parse_weights(name)
    model = make_network(network, weights, side)
    method = {"u": "uniform", "st3": "global"}.get(weights.kind, weights.kind)
    pattern = "dense" if method == "dense" else "unstructured"
    info = untrained_info(
        SparsityPlan(sparsity=weights.sparsity),
        pattern,
        recipe=f"{network}-untrained",
        method=method,
        evaluation="noise",
        preprocessing=_preprocessing(side),
        classes=_classes(),
        seed=_SEED,
    )
    patterns = {
        name: ("dense", "depthwise: too few weights a channel") if is_depthwise(layer) else (pattern, "")
        for name, layer in prunable_layers(model).items()
    }
    write_checkpoint(folder / name, model, info, patterns)


def write_noise(folder: Path, side: int = SIDE) -> None:
    """Write an evaluation set of random pixels; its labels mean nothing."""
    random = np.random.default_rng(_SEED)
    images = random.integers(0, 256, (PICTURES, 3, side, side), np.uint8)
    write_evaluation_set(folder, "noise", images, np.zeros(PICTURES, np.int64), _preprocessing(side), _classes())


def _torchvision(name: str) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise UserError(f"torchvision has no network {name!r}; it has {', '.join(known)}")
    model = models.get_model(name, weights=None)
    assert isinstance(model, nn.Module)
    return model


def _calibrate(model: nn.Module, side: int) -> None:
    """Give batch normalisations the mean and variance of what they see, and each a shift of its own."""
    random = generator(torch.device("cpu"), _SEED, "calibration")
    model.eval()  # dropout and its like stay off
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
            module.momentum = None  # the plain mean of all batches, of which there is one
            module.bias.normal_(0.0, 0.1, generator=random)
    model(torch.randn(_CALIBRATION_PICTURES, 3, side, side, generator=random))


def _preprocessing(side: int) -> Preprocessing:
    return Preprocessing((3, side, side), _PREPROCESSING.mean, _PREPROCESSING.std, side * 256 // SIDE)


def _classes() -> tuple[str, ...]:
    return tuple(map(str, range(CLASSES)))


@click.command()
@click.argument("network")
@click.argument("names", nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the checkpoints.")
def main(network: str, names: tuple[str, ...], out: Path) -> None:
    """Write one checkpoint of NETWORK for each of NAMES (dense, st3_90, u_90, ...), and noise to measure it on."""
    for name in names:
        parse_weights(name)
    for name in names:
        write_untrained(out, network, name)
        click.echo(out / name)
    write_noise(out.parent / "evaluation")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.stderr.write(f"Error: {error}\n")
        raise SystemExit(2) from None
