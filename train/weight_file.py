"""A trained network's weights as somebody else saved them: ``.safetensors``, or a state dict of ``torch.save``."""

from __future__ import annotations

import pickle
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from runtime.errors import UserError

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_NESTED = ("state_dict", "model_state_dict", "model", "model_ema")
"""Under which training scripts keep the weights beside their optimiser."""


def is_weight_file(source: str) -> bool:
    """Whether a path is one by its ending."""
    return Path(source).suffix in SUFFIXES


def read_weights(path: Path) -> dict[str, Tensor]:
    """Every parameter and buffer by its name, on the CPU; nothing is unpickled but plain tensors.

    Raises:
        UserError: the file is missing, damaged, or holds anything else.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; give a checkpoint's folder or a file of weights ({', '.join(SUFFIXES)})")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        found: object = torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        if isinstance(error, pickle.UnpicklingError):
            first = "it is damaged, or holds pickled objects, such as a whole network, and not tensors alone"
        raise UserError(
            f"{path} cannot be read as plain weights ({first}); save them with "
            f"safetensors.torch.save_file(model.state_dict(), ...) or torch.save(model.state_dict(), ...)"
        ) from error
    for key in _NESTED:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise UserError(f"{path} holds no state dict (names to tensors); save model.state_dict() of the network")
    # what DistributedDataParallel puts before every name
    wrapped = all(str(name).startswith("module.") for name in found)
    return {str(name).removeprefix("module.") if wrapped else str(name): value for name, value in found.items()}
