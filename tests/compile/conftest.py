"""Fixtures of the compile stage's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import Compiler

from compile.native import toolchain

torch.set_num_threads(1)


@pytest.fixture
def compiler(tmp_path: Path) -> Compiler:
    return Compiler(tmp_path)


@pytest.fixture(autouse=True, scope="session")
def _quick_compiler() -> None:
    """Tests check numbers, not speed: let g++ spend less time."""
    toolchain._FLAGS = tuple("-O1" if flag == "-O3" else flag for flag in toolchain._FLAGS)
