"""One short evaluation set and a folder of own networks for all tests of the training."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from own_network import SOURCE
from train_toy import write_fashion_evaluation


@pytest.fixture(scope="session")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 500 test pictures of Fashion-MNIST: a short evaluation."""
    folder = tmp_path_factory.mktemp("evaluation")
    write_fashion_evaluation(folder, 500)
    return folder


@pytest.fixture
def own_nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder holds ``own_nets.py``; the path and the loaded modules are restored afterwards."""
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "own_nets.py").write_text(SOURCE)
    (folder / "broken_nets.py").write_text("import a_package_that_is_missing\n")
    (folder / "wrong_nets.py").write_text("1 / 0\n")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_nets", raising=False)
    return folder
