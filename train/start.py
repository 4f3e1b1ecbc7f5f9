"""Where the weights of a run begin: at random, at a checkpoint or a file of weights, or at a model zoo's."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from runtime.data import sha256_of
from runtime.errors import UserError
from st3.checkpoint import WEIGHT_FILE, load_checkpoint
from st3.layers import prunable_layers
from train.network import TIMM, TORCHVISION, Reference, import_timm, torchvision_name
from train.weight_file import is_weight_file, read_weights

_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.", "aux_classifier.")
"""Parts that torchvision's networks have in training alone."""


def zoo_weights(reference: Reference, weights: str) -> str:
    """What ``--init-from`` calls the weights that ``--weights`` names.

    Args:
        reference: a network of torchvision's or timm's.
        weights: ``DEFAULT``, or a name in torchvision's enumeration, or timm's tag.

    Raises:
        UserError: the network is the user's own, or has no such weights.
    """
    if reference.name.startswith(TORCHVISION):
        from torchvision.models import get_model_weights

        known = get_model_weights(torchvision_name(reference))
        if weights not in known.__members__:
            names = ", ".join(known.__members__) or "none"
            raise UserError(f"--weights {weights}: {reference.name} has {names}")
        return f"{TORCHVISION}{known.__name__}.{weights}"
    if reference.name.startswith(TIMM):
        return reference.name if weights == "DEFAULT" else f"{reference.name.partition('.')[0]}.{weights}"
    raise UserError(
        f"--weights {weights} is for torchvision's and timm's networks; give a file of {reference.name}'s weights to "
        f"--init-from"
    )


def start_digest(source: str) -> str:
    """What identifies the first weights: a checkpoint's or file's digest, or the name of a model zoo's weights.

    Raises:
        UserError: ``source`` is none of them.
    """
    if source.startswith(TORCHVISION):
        _torchvision(source)
        return source
    if source.startswith(TIMM):
        return source
    if is_weight_file(source):
        read_weights(Path(source))
        return sha256_of(Path(source))
    return load_checkpoint(Path(source)).info.files[WEIGHT_FILE]


def load_start(source: str, model: nn.Module) -> list[str]:
    """Give a network, to which no method is attached yet, its first weights.

    Returns:
        What keeps its random weights: the classifier, where a model zoo's is for other classes.

    Raises:
        UserError: the weights are of another network, or cannot be downloaded.
    """
    weights, own = first_weights(source), model.state_dict()
    shapes = sorted(name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape)
    fresh = []
    if from_zoo(source):
        weights = {name: value for name, value in weights.items() if name in own or not name.startswith(_AUXILIARY)}
        head = list(prunable_layers(model))[-1]
        fresh = [name for name in shapes if name in (f"{head}.weight", f"{head}.bias")]
    missing, surplus = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    kinds = (
        ("lacks", missing),
        ("has besides", surplus),
        ("has another shape of", [name for name in shapes if name not in fresh]),
    )
    told = [f"it {word} {names[0]} ({len(names)} in all)" for word, names in kinds if names]
    if told:
        raise UserError(f"--init-from {source} is of another network than the one to train: {', '.join(told)}")
    model.load_state_dict({name: own[name] if name in fresh else value for name, value in weights.items()})
    return fresh


def from_zoo(source: str) -> bool:
    """Whether a start is a model zoo's weights."""
    return source.startswith((TORCHVISION, TIMM))


def first_weights(source: str) -> dict[str, Tensor]:
    """The weights that a source holds, by their names."""
    if source.startswith(TORCHVISION):
        return _download(source)
    if source.startswith(TIMM):
        return _download_timm(source)
    if is_weight_file(source):
        return read_weights(Path(source))
    return load_checkpoint(Path(source)).weights()


def _torchvision(source: str) -> object:
    from torchvision.models import get_weight

    name = source.removeprefix(TORCHVISION)
    try:
        return get_weight(name)
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"torchvision has no weights {name!r}; give for instance torchvision:ResNet50_Weights.IMAGENET1K_V2"
        ) from error


def _download(source: str) -> dict[str, Tensor]:
    weights = _torchvision(source)
    try:
        # weights_only: what comes from the net is not unpickled
        state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)  # type: ignore[attr-defined]
    except (OSError, RuntimeError) as error:
        raise UserError(f"{source} cannot be downloaded ({error}); train with a checkpoint's folder instead") from error
    return state


def _download_timm(source: str) -> dict[str, Tensor]:
    timm = import_timm(source)
    try:
        loaded = timm.create_model(source.removeprefix(TIMM), pretrained=True)
    except Exception as error:  # timm and its hub raise many types
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{source} cannot be downloaded ({first}); train with a checkpoint's folder instead") from error
    state: dict[str, Tensor] = loaded.state_dict()
    return state
