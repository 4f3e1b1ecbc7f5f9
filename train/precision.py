"""Precision of the forward and backward pass: automatic mixed precision around float32 weights."""

from __future__ import annotations

import torch

from runtime.errors import UserError

NAMES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Name to autocast's type; ``None`` is no autocast."""


def resolve(asked: str | None, recipe: str, device: torch.device) -> str:
    """The precision of a run: the option's, or the recipe's, which is meant for a GPU and is fp32 on a CPU.

    Raises:
        UserError: there is no such precision, or the GPU has no bfloat16.
    """
    name = asked or (recipe if device.type == "cuda" else "fp32")
    if name not in NAMES:
        raise UserError(f"unknown precision {name!r}; choose one of {', '.join(NAMES)}")
    if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError(f"{torch.cuda.get_device_name()} has no bfloat16; use --precision fp16 or fp32")
    return name


def autocast(name: str, device: torch.device) -> torch.autocast:
    """The context in which the network and its loss run."""
    dtype = NAMES[name]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def grad_scaler(name: str, device: torch.device) -> torch.amp.GradScaler:
    """Keeps float16 gradients from vanishing; does nothing for the other precisions."""
    return torch.amp.GradScaler(device.type, enabled=name == "fp16")
