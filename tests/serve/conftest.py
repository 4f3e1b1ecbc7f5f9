"""One small artifact that is served, and the server of a module's tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from serve_artifacts import build

from bench.serve.server import Server
from runtime.artifact import open_artifact, write_manifest
from runtime.serve.model_signature import Signature, signature_of


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("served"), 0)


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network with other weights."""
    return build(tmp_path_factory.mktemp("other"), 1)


@pytest.fixture
def compiled(served: Path, tmp_path: Path) -> Path:
    """An artifact that is called as ``st3 compile`` calls it, after its source and its own folder."""
    folder = Path(shutil.copytree(served, tmp_path / "compiled"))
    write_manifest(folder, msgspec.structs.replace(open_artifact(folder).manifest, name="dense/native-b1"))
    return folder


@pytest.fixture(scope="session")
def signature(served: Path) -> Signature:
    return signature_of(open_artifact(served).manifest, "model", 1)


@pytest.fixture(scope="module")
def server(served: Path) -> Iterator[Server]:
    options = ("--control", "--read-timeout", "1", "--idle-timeout", "2", "--workers", "2")
    with Server(f"model={served}", *options) as running:
        yield running
