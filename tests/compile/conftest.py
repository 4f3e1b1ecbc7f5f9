"""Fixtures of the compile stage's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import Compiler


@pytest.fixture
def compiler(tmp_path: Path) -> Compiler:
    return Compiler(tmp_path)
