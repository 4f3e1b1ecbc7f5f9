"""Small tensors: more than one thread would only wait for the others."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from own_network import SOURCE

from runtime.data import write_evaluation_set
from train.data.fashion_mnist import CLASSES, load

torch.set_num_threads(1)

DATA = Path(__file__).parents[2] / "data/fashion-mnist"


@pytest.fixture(scope="session")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 500 test pictures of Fashion-MNIST: a short evaluation."""
    folder = tmp_path_factory.mktemp("evaluation")
    dataset = load(DATA)
    images, labels = dataset.evaluation()
    write_evaluation_set(folder, dataset.name, images[:500], labels[:500], dataset.preprocessing, CLASSES)
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
