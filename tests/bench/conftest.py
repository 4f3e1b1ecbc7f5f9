"""Fixtures that all tests of the bench may use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from bench_builders import make_evaluation

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small evaluation set on which the network with 8 hidden units is right in 63 of 70 pictures."""
    return make_evaluation(tmp_path_factory.mktemp("evaluation"))
