"""What the commands of both command lines do with artifacts: check them, run them on pictures, describe them."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from runtime.artifact import find_artifacts
from runtime.batches import run_outputs
from runtime.check import replay
from runtime.engine import load
from runtime.errors import UserError
from runtime.pictures import read_inputs
from runtime.signature import public_keys
from runtime.trust import trust_from

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

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
            line = _line_of_check(result)
        except UserError as error:
            result = {"artifact": str(folder), "passed": False, "refused": str(error)}
            line = str(error).removeprefix(f"{folder} ")  # which the line begins with
        yield result, f"{'ok    ' if result['passed'] else 'FAILED'}  {folder}  {line}"


def _line_of_check(result: dict[str, Any]) -> str:
    """One output's error, or of several the worst and how many there are."""
    line = f"error {result['error']:.2e}, tolerance {result['tolerance']:.0e}"
    return line if len(result["outputs"]) == 1 else f"{line}, the worst of {len(result['outputs'])} outputs"


def classify(
    artifact: Path,
    inputs: tuple[Path, ...],
    threads: int | None,
    top: int,
    out: Path | None,
    digest: str | None,
    key: Path | None,
) -> list[list[dict[str, Any]]]:
    """The ``top`` classes of each input, best first; of a network with several outputs what each came to.

    ``out`` gets the raw output as ``.npy``; several as ``.npz``, by their names.
    """
    engine = load(artifact, threads, require_digest=digest, require_signature=key)
    outputs = run_outputs(engine, read_inputs(inputs, engine.artifact.manifest.preprocessing))
    if out is not None:
        try:
            with out.open("wb") as stream:
                _write(stream, outputs)
        except OSError as error:
            raise UserError(f"{out} cannot be written ({error.strerror}); give another place to --out") from error
    if len(outputs) > 1:
        return [
            [_sum_up(name, row) for name, row in zip(outputs, rows, strict=True)]
            for rows in zip(*outputs.values(), strict=True)
        ]
    (output,) = outputs.values()
    return [_best(row, engine.artifact.manifest.classes, top) for row in output.reshape(len(output), -1)]


def lines_of(inputs: Sequence[Path], rows: Sequence[list[dict[str, Any]]]) -> list[str]:
    """Each input's classes, or its outputs, for the terminal, which no name may steer.

    A line begins with the input's file, or with its number where files hold several inputs.
    """
    labels = [str(path) for path in inputs] if len(inputs) == len(rows) else map(str, range(len(rows)))
    return [
        "".join(c if c.isprintable() else " " for c in f"{label}: {', '.join(map(_tell, row))}")
        for label, row in zip(labels, rows, strict=True)
    ]


def _tell(item: dict[str, Any]) -> str:
    if "class" in item:
        return f"{item['class']} {item['probability']:.4f}"
    return f"{item['output']} {tuple(item['shape'])} from {item['least']:.4g} to {item['largest']:.4g}"


def _write(stream: BinaryIO, outputs: dict[str, NDArray[np.float32]]) -> None:
    if len(outputs) == 1:
        np.save(stream, next(iter(outputs.values())), allow_pickle=False)
        return
    # as np.savez does, which takes names as arguments and so not every name
    with zipfile.ZipFile(stream, "w") as archive:
        for name, output in outputs.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as part:
                np.lib.format.write_array(part, output, allow_pickle=False)


def _sum_up(name: str, values: NDArray[np.float32]) -> dict[str, Any]:
    return {
        "output": name,
        "shape": list(values.shape),
        "least": float(values.min()),
        "largest": float(values.max()),
        "mean": float(values.mean()),
    }


def _best(logits: NDArray[np.float32], classes: tuple[str, ...], top: int) -> list[dict[str, Any]]:
    shifted = np.exp(logits - logits.max())
    probability = shifted / shifted.sum()
    order = np.argsort(-logits, kind="stable")[:top]
    return [
        {"class": classes[i] if i < len(classes) else str(i), "index": int(i), "probability": float(probability[i])}
        for i in order
    ]
