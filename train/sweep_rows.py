"""The results of a sweep on disk: ``sweep.jsonl``, one line per finished run, written as it finishes."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import msgspec

from runtime.errors import UserError
from runtime.training_rows import SweepRow
from train.sweep_plan import Run, Sweep

FILE = "sweep.jsonl"


class _Trained(msgspec.Struct, frozen=True):
    """What a row needs of the JSON document that ``st3 train --json`` prints."""

    method: str
    pattern: str
    target_sparsity: float
    sparsity: float
    seed: int
    accuracy: float
    loss: float
    epochs: float
    steps: int
    train_seconds: float
    device: str
    threads: int
    commit: str
    versions: dict[str, str]
    files: dict[str, str]


def row_of(sweep: Sweep, run: Run, printed: bytes, jobs: int) -> SweepRow:
    """The row of a run from what its training printed.

    Raises:
        UserError: it printed something else.
    """
    try:
        trained = msgspec.json.decode(printed.strip().rpartition(b"\n")[2], type=_Trained)
    except msgspec.MsgspecError as error:
        raise UserError(f"the training of {run.name} ended well but printed no checkpoint ({error})") from error
    return SweepRow(
        key=sweep.key(run),
        recipe=sweep.recipe,
        recipe_digest=sweep.recipe_digest,
        options=sweep.options,
        method=trained.method,
        pattern=trained.pattern,
        target_sparsity=trained.target_sparsity,
        sparsity=trained.sparsity,
        seed=trained.seed,
        accuracy=trained.accuracy,
        loss=trained.loss,
        epochs=trained.epochs,
        steps=trained.steps,
        seconds=trained.train_seconds,
        jobs=jobs,
        weights_sha256=trained.files["weights.safetensors"],
        device=trained.device,
        processor=processor(),
        threads=trained.threads,
        commit=trained.commit,
        versions=trained.versions,
    )


def append(folder: Path, row: SweepRow) -> None:
    """Add a line, on the disk when this returns."""
    with (folder / FILE).open("ab") as stream:
        stream.write(msgspec.json.encode(row) + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def read(folder: Path) -> list[SweepRow]:
    """Every row; a last line that a killed sweep did not finish is cut off.

    Raises:
        UserError: a line in between is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return []
    raw = path.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if len(whole) < len(raw):
        part = path.with_suffix(".part")
        part.write_bytes(whole)
        part.replace(path)
    try:
        return [msgspec.json.decode(line, type=SweepRow) for line in whole.splitlines()]
    except msgspec.MsgspecError as error:
        raise UserError(f"{path} is damaged ({error}); repair it or give another --out") from error


def refuse_other_sweep(sweep: Sweep, rows: list[SweepRow]) -> None:
    """Raise a ``UserError`` if rows are of another recipe or other options: one table must not mix them."""
    for row in rows:
        left = (sweep.recipe, sweep.recipe_digest, sweep.options)
        right = (row.recipe, row.recipe_digest, row.options)
        if left != right:
            raise UserError(
                f"{sweep.out / FILE} holds runs of {_words(*right)}, this sweep is of {_words(*left)}; "
                f"give another --out"
            )


def processor() -> str:
    """Model name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _words(recipe: str, digest: str, options: tuple[str, ...]) -> str:
    return f"{recipe} ({digest}) with {' '.join(options) or 'no options'}"
