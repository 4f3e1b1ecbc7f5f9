"""Random numbers as a function of the run's seed and a place in it, so that a resumed run needs no generator state."""

from __future__ import annotations

import hashlib

import torch


def derive(seed: int, purpose: str, number: int = 0) -> int:
    """A seed for one purpose and one place: two different ones never share their random numbers.

    Args:
        seed: the run's.
        purpose: what it is for, for instance ``order``.
        number: which epoch or step.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(device: torch.device, seed: int, purpose: str, number: int = 0) -> torch.Generator:
    """A generator on a device, seeded by ``derive``."""
    return torch.Generator(device).manual_seed(derive(seed, purpose, number))
