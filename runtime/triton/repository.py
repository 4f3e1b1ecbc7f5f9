"""Writes the model repository: a folder per model with its configuration, its labels and version 1."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import msgspec

from runtime.artifact import find_artifacts, open_artifact
from runtime.errors import UserError
from runtime.names import served_name
from runtime.triton.config import LABELS_FILE, PYTHON, config, kind_of, plan_file
from runtime.triton.python_model import ARTIFACT_FOLDER

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from runtime.artifact import Artifact
    from runtime.triton.config import Kind, Options

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}")
_MODEL_PY = '''"""Runs the artifact beside this file; st3-runtime must be installed where Triton's Python runs."""

from runtime.triton.python_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


class Exported(msgspec.Struct, frozen=True):
    """One model of the repository. ``batched`` says whether Triton batches its requests."""

    name: str
    folder: str
    backend: str
    batched: bool
    architectures: tuple[str, ...]


def export(paths: Sequence[tuple[str | None, Path]], out: Path, options: Options) -> list[Exported]:
    """Write a repository.

    Args:
        paths: artifacts or folders of them, each with the name that its model gets, if not its own. TensorRT plans of
            one name and of several GPU architectures become one model.
        out: the repository; models that it holds already are left alone.
        options: see there.

    Raises:
        UserError: an artifact is damaged, a name is taken or is none for a folder, or artifacts of one name do not
            belong together.
    """
    models = _by_name(paths)
    for name in models:
        if (out / name).exists():
            raise UserError(f"{out / name} exists; remove it, give another name (NAME=ARTIFACT) or another -o")
    return [_write(name, artifacts, out, options) for name, artifacts in models.items()]


def _by_name(paths: Sequence[tuple[str | None, Path]]) -> dict[str, list[Artifact]]:
    models: dict[str, list[Artifact]] = {}
    for name, path in paths:
        for folder in find_artifacts(path):
            artifact = open_artifact(folder)
            key = name or served_name(artifact.manifest.name)
            if not _NAME.fullmatch(key):
                raise UserError(f"{key!r} cannot be a model's name in Triton; name it: NAME={folder}")
            models.setdefault(key, []).append(artifact)
    return models


def _write(name: str, artifacts: list[Artifact], out: Path, options: Options) -> Exported:
    kind = kind_of(artifacts[0], options)
    _check_together(name, artifacts, kind, options)
    part = out / f".{name}.part"
    if part.exists():
        shutil.rmtree(part)
    version = part / "1"
    version.mkdir(parents=True)
    for artifact in artifacts:
        if kind == PYTHON:
            shutil.copytree(artifact.folder, version / ARTIFACT_FOLDER)
            (version / "model.py").write_text(_MODEL_PY)
        else:
            plan = kind.platform == "tensorrt_plan"
            file = plan_file(artifact.manifest.target.architecture) if plan else kind.file
            shutil.copyfile(artifact.payload / kind.file, version / file)
    classes = artifacts[0].manifest.classes
    if classes:
        (part / LABELS_FILE).write_text("".join(" ".join(label.split()) + "\n" for label in classes))
    (part / "config.pbtxt").write_text(config(name, artifacts, kind, options))
    part.rename(out / name)
    return Exported(
        name=name,
        folder=str(out / name),
        backend=kind.platform or kind.backend,
        batched=kind == PYTHON,
        architectures=tuple(artifact.manifest.target.architecture for artifact in artifacts),
    )


def _check_together(name: str, artifacts: list[Artifact], kind: Kind, options: Options) -> None:
    if len(artifacts) == 1:
        return
    first = artifacts[0].manifest
    architectures = {artifact.manifest.target.architecture for artifact in artifacts}
    same = all(
        kind_of(artifact, options) == kind
        and (artifact.manifest.input, artifact.manifest.outputs, artifact.manifest.lineage.checkpoint_sha256)
        == (first.input, first.outputs, first.lineage.checkpoint_sha256)
        for artifact in artifacts
    )
    if not (same and kind.platform == "tensorrt_plan" and len(architectures) == len(artifacts)):
        folders = ", ".join(str(artifact.folder) for artifact in artifacts)
        raise UserError(
            f"{folders} are all named {name!r}, which only TensorRT plans of one checkpoint for different GPU "
            f"architectures may be; give each a name: NAME=ARTIFACT"
        )
