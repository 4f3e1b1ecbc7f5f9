"""Where the weights of a run begin: at random, at a dense checkpoint (``--init-from``), or at torchvision's weights."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from runtime.errors import UserError
from st3.checkpoint import WEIGHT_FILE, load_checkpoint

_TORCHVISION = "torchvision:"


def start_digest(source: str) -> str:
    """What identifies the first weights: a checkpoint's digest, or the name of torchvision's weights.

    Raises:
        UserError: ``source`` is neither.
    """
    if source.startswith(_TORCHVISION):
        _torchvision(source)
        return source
    return load_checkpoint(Path(source)).info.files[WEIGHT_FILE]


def load_start(source: str, model: nn.Module) -> None:
    """Give a network, to which no method is attached yet, its first weights.

    Raises:
        UserError: the weights are of another network, or cannot be downloaded.
    """
    weights = _download(source) if source.startswith(_TORCHVISION) else load_checkpoint(Path(source)).weights()
    own = model.state_dict()
    missing, surplus = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    shapes = [name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape]
    if missing or surplus or shapes:
        kinds = (("lacks", missing), ("has besides", surplus), ("has another shape of", sorted(shapes)))
        told = [f"it {word} {names[0]} ({len(names)} in all)" for word, names in kinds if names]
        raise UserError(f"--init-from {source} is of another network than the recipe's: {', '.join(told)}")
    model.load_state_dict(weights)


def _torchvision(source: str) -> object:
    from torchvision.models import get_weight

    name = source.removeprefix(_TORCHVISION)
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
