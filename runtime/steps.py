"""The steps of a generated network, as its compiler listed them, and the time that each took."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from runtime import strict_json
from runtime.errors import ArtifactError

if TYPE_CHECKING:
    from pathlib import Path


class StepInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step of the whole batch.

    ``layer`` is empty where it has no weights; ``macs`` are those with a non-zero weight, or attention's products.
    """

    name: str
    kernel: str
    layer: str = ""
    macs: int = 0


class StepTime(msgspec.Struct, frozen=True):
    """Wall time of one step in one run of the whole batch."""

    step: StepInfo
    ms: float


def read_steps(path: Path) -> tuple[StepInfo, ...]:
    """The list that the compiler wrote; raises ``ArtifactError`` where it is missing or damaged."""
    try:
        return strict_json.read(path, tuple[StepInfo, ...])
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); compile the artifact again") from error
