"""What the commands of both command lines do with artifacts: check them, run them on pictures, describe them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from runtime.artifact import find_artifacts
from runtime.batches import run_all
from runtime.check import replay
from runtime.engine import load
from runtime.errors import UserError
from runtime.pictures import read_inputs
from runtime.signature import public_keys
from runtime.trust import trust_from

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


def check_each(
    paths: Sequence[Path], threads: int | None, digest: str | None, key: Path | None
) -> Iterator[tuple[dict[str, Any], str]]:
    """Replay the golden inputs of each artifact at or below ``paths``: the result as data, and as a line.

    ``digest`` and ``key`` are ``require_digest`` and ``require_signature`` of ``load``.
    """
    public_keys(trust_from(digest, key).keys)  # a demand that is none is a mistake, not what an artifact fails
    if threads is not None and threads < 1:
        raise UserError(f"--threads must be 1 or more, got {threads}")
    for folder in [folder for path in paths for folder in find_artifacts(path)]:
        try:
            engine = load(folder, threads, require_digest=digest, require_signature=key)
            result = msgspec.to_builtins(replay(engine))
            engine.close()
            line = f"error {result['error']:.2e}, tolerance {result['tolerance']:.0e}"
        except UserError as error:
            result = {"artifact": str(folder), "passed": False, "refused": str(error)}
            line = str(error).removeprefix(f"{folder} ")  # which the line begins with
        yield result, f"{'ok    ' if result['passed'] else 'FAILED'}  {folder}  {line}"


def classify(
    artifact: Path,
    inputs: tuple[Path, ...],
    threads: int | None,
    top: int,
    out: Path | None,
    digest: str | None,
    key: Path | None,
) -> list[list[dict[str, Any]]]:
    """The ``top`` classes of each input, best first; ``out`` gets the raw outputs as ``.npy``."""
    engine = load(artifact, threads, require_digest=digest, require_signature=key)
    outputs = run_all(engine, read_inputs(inputs, engine.artifact.manifest.preprocessing))
    if out is not None:
        try:
            with out.open("wb") as stream:
                np.save(stream, outputs, allow_pickle=False)
        except OSError as error:
            raise UserError(f"{out} cannot be written ({error.strerror}); give another place to --out") from error
    return [_best(row, engine.artifact.manifest.classes, top) for row in outputs.reshape(len(outputs), -1)]


def lines_of(inputs: Sequence[Path], rows: Sequence[list[dict[str, Any]]]) -> list[str]:
    """Each picture's classes for the terminal, which no name may steer; behind its file, or its number in arrays."""
    labels = [str(path) for path in inputs] if len(inputs) == len(rows) else map(str, range(len(rows)))
    return [
        "".join(c if c.isprintable() else " " for c in f"{label}: {_best_of(row)}")
        for label, row in zip(labels, rows, strict=True)
    ]


def _best_of(row: list[dict[str, Any]]) -> str:
    return ", ".join(f"{item['class']} {item['probability']:.4f}" for item in row)


def _best(logits: NDArray[np.float32], classes: tuple[str, ...], top: int) -> list[dict[str, Any]]:
    shifted = np.exp(logits - logits.max())
    probability = shifted / shifted.sum()
    order = np.argsort(-logits, kind="stable")[:top]
    return [
        {"class": classes[i] if i < len(classes) else str(i), "index": int(i), "probability": float(probability[i])}
        for i in order
    ]
