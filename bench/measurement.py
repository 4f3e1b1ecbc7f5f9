"""``measurements.jsonl``: the records of one session, one per line, written as they are made and read back checked.

The first line is the ``session``; then come ``artifact`` and ``measurement`` records, ``refusal`` records for what
could not be opened, and last an ``end``, which a killed session lacks. ``step`` and ``peak`` records are there where
the steps of a network were timed. The file holds all that a report needs.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, TypeAlias, final

import msgspec

from bench.environment import Environment, Gpu
from runtime.artifact import LayerEntry, Lineage, Target
from runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Operand: TypeAlias = Literal["registers", "L1", "L2"]

SCHEMA_VERSION = 3
"""2: the batch sizes of an artifact's target. 3: GPUs, and what is proven of an artifact's layers on them."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The protocol's numbers. A turn is one artifact's part of a round; times are in seconds.

    ``rounds`` of ``turn_s`` each give every artifact about ``rounds * turn_s`` seconds in each condition.
    """

    rounds: int = 50
    turn_s: float = 0.04
    calls_per_turn_max: int = 250
    settle_fraction: float = 0.1
    warm_window_s: float = 0.05
    warm_limit_s: float = 1.0
    warm_tolerance: float = 0.05
    seed: int = 0


class Session(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="session"):
    """The first record: what was asked for, and on what it ran."""

    schema_version: int
    environment: Environment
    settings: Settings
    threads: tuple[int, ...]
    evaluation: str
    pictures: int


class ArtifactRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="artifact"):
    """One artifact, as its manifest describes it. MACs are per picture.

    ``digest`` is the manifest's; where another engine than the artifact's own runs it, ``ENGINE:`` stands before it.
    """

    digest: str
    name: str
    backend: str
    engine: str
    target: Target
    lineage: Lineage
    layers: tuple[LayerEntry, ...]
    size_bytes: int
    macs_dense: int
    macs_nonzero: int


class Measurement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="measurement"):
    """Raw samples of one metric: one inner list per round, or one list for a metric that is sampled once.

    ``control`` marks the second worker that ran the same artifact as another one (the A/A pair). ``stable`` says
    whether the warm-up came to rest. ``failure`` says why the samples stop early or are missing.
    """

    artifact: str
    metric: str
    unit: str
    batch_size: int
    threads: int
    samples: tuple[tuple[float, ...], ...]
    cpus: tuple[int, ...] = ()
    control: bool = False
    stable: bool = True
    failure: str | None = None


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="step"):
    """One step of an artifact's network; steps come in the order in which they run. Samples are one per run.

    ``layer`` is empty where a step has no weights; ``macs`` are those with a non-zero weight, of the whole batch.
    """

    artifact: str
    batch_size: int
    threads: int
    name: str
    layer: str
    kernel: str
    macs: int
    samples_ms: tuple[float, ...]


class Peak(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="peak"):
    """Multiply-adds that this processor makes, in GFLOP/s of all threads; ``operand`` is where one of theirs lies."""

    operand: Operand
    threads: int
    samples: tuple[float, ...]


class Refusal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="refusal"):
    """A folder that was given and holds no usable artifact."""

    name: str
    reason: str


class End(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="end"):
    """The last record. ``complete`` is false for a session that was interrupted; ``gpus`` are as they were then."""

    ended: str
    load_average: tuple[float, ...]
    complete: bool
    gpus: tuple[Gpu, ...] = ()


Record = Session | ArtifactRecord | Measurement | Step | Peak | Refusal | End


class Measurements(msgspec.Struct, frozen=True):
    """A whole file."""

    session: Session
    artifacts: tuple[ArtifactRecord, ...]
    measurements: tuple[Measurement, ...]
    refusals: tuple[Refusal, ...]
    end: End | None
    steps: tuple[Step, ...] = ()
    peaks: tuple[Peak, ...] = ()


@final
class Writer:
    """Appends records to ``PATH.part``; ``finish`` gives the file its name, so an older session lives until then."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.part = path.with_name(path.name + ".part")
        self._stream = self.part.open("wb")

    def write(self, records: Iterable[Record]) -> None:
        """Append records and hand them to the disk: a bench that is killed afterwards has not lost them."""
        self._stream.write(b"".join(msgspec.json.encode(record) + b"\n" for record in records))
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def finish(self) -> None:
        """Close and rename."""
        self._stream.close()
        self.part.replace(self.path)

    def abandon(self) -> None:
        """Close and remove: nothing was measured."""
        self._stream.close()
        self.part.unlink()


def checkpoint_name(record: ArtifactRecord) -> str:
    """``st3-2to4-0.5``, ``gmp-unstructured-0.95``, ``dense``: the folder that training gave the checkpoint.

    ``resnet50.onnx`` for what was compiled from a file.
    """
    lineage = record.lineage
    if lineage.method == "dense":
        return "dense"
    if lineage.method == "onnx":
        return lineage.recipe
    return f"{lineage.method}-{lineage.pattern.replace(':', 'to')}-{lineage.target_sparsity:g}"


def read_measurements(path: Path) -> Measurements:
    """Read a session.

    Raises:
        UserError: the file is missing, broken, foreign or newer; the message names line and field.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; `st3 bench` writes it")
    lines = path.read_bytes().split(b"\n")
    if lines[-1]:
        raise UserError(
            f"{path}, line {len(lines)}: the line is cut off, the bench was killed while writing; delete that line"
        )
    if not lines[:-1]:
        raise UserError(f"{path} is empty; run `st3 bench` again")
    session = _session(path, lines[0])
    records = [_decode(path, number, line) for number, line in enumerate(lines[1:-1], start=2)]
    _check(path, records)
    return Measurements(
        session=session,
        artifacts=tuple(record for record in records if isinstance(record, ArtifactRecord)),
        measurements=tuple(record for record in records if isinstance(record, Measurement)),
        refusals=tuple(record for record in records if isinstance(record, Refusal)),
        end=next((record for record in records if isinstance(record, End)), None),
        steps=tuple(record for record in records if isinstance(record, Step)),
        peaks=tuple(record for record in records if isinstance(record, Peak)),
    )


def is_dense(record: ArtifactRecord) -> bool:
    """Whether an artifact is what speed-ups are given against: dense weights, or a file whose zeros it computes."""
    if record.lineage.method == "onnx":
        return all(layer.format == "dense" for layer in record.layers)
    return record.lineage.method == "dense"


class _Version(msgspec.Struct):
    schema_version: int


def _session(path: Path, line: bytes) -> Session:
    try:
        version = msgspec.json.decode(line, type=_Version).schema_version
    except msgspec.MsgspecError as error:
        raise UserError(
            f"{path}, line 1: not a measurement file of st3 bench ({error}); the first line must be a session record"
        ) from error
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{path}, line 1, field schema_version: {version} is newer than {SCHEMA_VERSION}, which this version "
            f"reads; update st3"
        )
    record = _decode(path, 1, line)
    if not isinstance(record, Session):
        raise UserError(f"{path}, line 1, field type: the first record must be a session; run `st3 bench` again")
    return record


def _decode(path: Path, number: int, line: bytes) -> Record:
    try:
        record: Record = msgspec.json.decode(line, type=Record)
    except msgspec.MsgspecError as error:
        raise UserError(f"{path}, line {number}{_where(error)}; restore the file or run `st3 bench` again") from error
    return record


def _where(error: msgspec.MsgspecError) -> str:
    """Say the place in the words of a file: msgspec writes ``... - at `$.field` ``."""
    what, at, field = str(error).partition(" - at `$.")
    return f", field {field.rstrip('`')}: {what}" if at else f": {what}"


def _check(path: Path, records: list[Record]) -> None:
    known = {record.digest for record in records if isinstance(record, ArtifactRecord)}
    last = len(records) + 1
    for number, record in enumerate(records, start=2):
        if isinstance(record, Session):
            raise UserError(f"{path}, line {number}, field type: a second session; a file holds one session")
        if isinstance(record, End) and number != last:
            raise UserError(f"{path}, line {number}, field type: an end record before the last line")
        if isinstance(record, Measurement | Step) and record.artifact not in known:
            raise UserError(f"{path}, line {number}, field artifact: no artifact record has {record.artifact!r}")
        if isinstance(record, Measurement):
            if record.failure is None and not (record.samples and all(record.samples)):
                raise UserError(f"{path}, line {number}, field samples: no samples, or a round without, but no failure")
            if record.metric == "latency" and any(value <= 0 for turn in record.samples for value in turn):
                raise UserError(f"{path}, line {number}, field samples: a latency that is not positive")
