"""One small artifact for all tests of the runtime."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from support import Compiler, prune_randomly
from torch import nn


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    return Compiler(tmp_path_factory.mktemp("built")).artifact(prune_randomly(module, 0.6), (1, 8, 8), 2).folder


@pytest.fixture
def artifact(built: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(built, tmp_path / "artifact"))
