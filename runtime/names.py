"""A model's name: of ``NAME=PATH`` on a command line, or of the artifact alone."""

from __future__ import annotations

from pathlib import Path

from runtime.errors import UserError


def named(text: str) -> tuple[str | None, Path]:
    """The name and the path; no name for a path alone, which may hold an equals sign if it exists."""
    name, equals, path = text.partition("=")
    if not equals or Path(text).exists():
        return None, Path(text)
    if not name or "/" in name:
        raise UserError(f"{text!r} is neither a folder nor NAME=FOLDER")
    return name, Path(path)


def served_name(artifact: str) -> str:
    """The name that a server gives an artifact of its own accord: one part of a path, ``dense-native-b1``."""
    return artifact.replace("/", "-")
