"""One small artifact that is served, and the server of a module's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support import Compiler, prune_randomly
from torch import nn

from bench.serve.server import Server
from runtime.artifact import open_artifact
from runtime.serve.protocol import Signature, signature_of

SHAPE = (1, 8, 8)
SIZES = (1, 4)


def build(folder: Path, seed: int, shape: tuple[int, int, int] = SHAPE) -> Path:
    """A network with random weights, compiled for batches of one and four."""
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Conv2d(shape[0], 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    return Compiler(folder).artifact(prune_randomly(module, 0.6, seed), shape, SIZES).folder


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("served"), 0)


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network with other weights."""
    return build(tmp_path_factory.mktemp("other"), 1)


@pytest.fixture(scope="session")
def signature(served: Path) -> Signature:
    return signature_of(open_artifact(served).manifest, "model", 1)


@pytest.fixture(scope="module")
def server(served: Path) -> Iterator[Server]:
    options = ("--control", "--read-timeout", "1", "--idle-timeout", "2", "--workers", "2")
    with Server(f"model={served}", *options) as running:
        yield running
