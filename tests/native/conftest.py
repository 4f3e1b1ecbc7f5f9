"""What the tests of the generated code outside Python share."""

from __future__ import annotations

import pytest

from compile.native import toolchain


@pytest.fixture(autouse=True, scope="session")
def _quick_compiler() -> None:
    """Tests check numbers, not speed: let g++ spend less time."""
    toolchain._FLAGS = tuple("-O1" if flag == "-O3" else flag for flag in toolchain._FLAGS)
