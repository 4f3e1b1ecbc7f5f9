"""The measurement file: records are appended as they are made, and read back checked.

A session that is under way, or was interrupted, lies in ``PATH.part``; ``bench.measurement`` says what it holds.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, final

import msgspec

from bench.measurement import (
    SCHEMA_VERSION,
    ArtifactRecord,
    Bandwidth,
    End,
    Harness,
    Measurement,
    Measurements,
    Missing,
    Peak,
    Record,
    Refusal,
    Round,
    Served,
    Session,
    Step,
    Surroundings,
    Turn,
)
from runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path
    from typing import TypeVar

    Kind = TypeVar("Kind", bound=Record)


@final
class Writer:
    """Appends records to ``PATH.part``; ``finish`` gives the file its name, so an older session lives until then.

    Args:
        path: where the finished session is to lie.
        resume: keep what ``PATH.part`` holds, but for a line that was cut off, and write behind it; else what lies
            there is renamed to ``PATH.interrupted``.
    """

    def __init__(self, path: Path, resume: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.part = part_of(path)
        if self.part.exists() and not resume:
            self.part.replace(set_aside(path))
        if resume:
            whole = self.part.read_bytes().rpartition(b"\n")
            with self.part.open("r+b") as stream:
                stream.truncate(len(whole[0]) + len(whole[1]))
        self._stream = self.part.open("ab" if resume else "wb")

    def write(self, records: Iterable[Record]) -> None:
        """Append records and hand them to the disk: a bench that is killed afterwards has not lost them."""
        self._stream.write(_lines(records))
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def finish(self) -> None:
        """Close, bring the rounds together, and rename."""
        self._stream.close()
        records = read_records(self.part)
        kept = [record for record in records if not isinstance(record, Round | End)]
        ends = [record for record in records if isinstance(record, End)]
        merged = self.part.with_name(self.part.name + ".merged")
        merged.write_bytes(_lines([*kept, *merge(records), *ends]))
        merged.replace(self.path)
        self.part.unlink()

    def keep(self) -> None:
        """Close, and leave what is there to be continued."""
        self._stream.close()

    def abandon(self) -> None:
        """Close and remove: nothing was measured."""
        self._stream.close()
        self.part.unlink()


def part_of(path: Path) -> Path:
    """Where a session lies until it is finished."""
    return path.with_name(path.name + ".part")


def set_aside(path: Path) -> Path:
    """Where an interrupted session goes that another one is begun after."""
    return path.with_name(path.name + ".interrupted")


def merge(records: Iterable[Record]) -> list[Measurement]:
    """One measurement per artifact, metric, condition and control from all rounds, in the order of their appearance."""
    series: dict[tuple[str, str, int, int, int], list[tuple[Round, Turn]]] = {}
    for record in records:
        if isinstance(record, Round):
            for turn in record.turns:
                key = (turn.artifact, turn.metric, record.batch_size, record.threads, turn.control)
                series.setdefault(key, []).append((record, turn))
    return [_measurement(turns) for turns in series.values()]


def _measurement(turns: Sequence[tuple[Round, Turn]]) -> Measurement:
    around, first = turns[0]
    sampled = [(record, turn) for record, turn in turns if turn.samples]
    return Measurement(
        artifact=first.artifact,
        metric=first.metric,
        unit=first.unit,
        batch_size=around.batch_size,
        threads=around.threads,
        samples=tuple(turn.samples for _, turn in sampled),
        cpus=around.cpus,
        control=first.control,
        stable=all(turn.stable for _, turn in turns),
        failure=next((turn.failure for _, turn in turns if turn.failure is not None), None),
        launches=tuple(record.launch for record, _ in sampled),
    )


def read_measurements(path: Path) -> Measurements:
    """Read a session, finished or not.

    Raises:
        UserError: the file is missing, broken, foreign or newer; the message names line and field.
    """
    return measurements_of(read_records(path))


def read_records(path: Path, cut_off: bool = False) -> list[Record]:
    """The records of a session as they lie in the file, the session first.

    Args:
        path: the file.
        cut_off: leave out a last line that a killed bench did not finish, instead of refusing it.

    Raises:
        UserError: see ``read_measurements``.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; name the file in it, for instance {path / 'measurements.jsonl'}")
    if not path.is_file():
        raise UserError(f"{path} does not exist; `st3 bench` writes it")
    lines = path.read_bytes().split(b"\n")
    if lines[-1] and not cut_off:
        raise UserError(
            f"{path}, line {len(lines)}: the line is cut off, the bench was killed while writing; continue it with "
            f"`st3 bench --resume`, or delete that line"
        )
    if not lines[:-1]:
        raise UserError(f"{path} is empty; run `st3 bench` again")
    session = _session(path, lines[0])
    records = [_decode(path, number, line) for number, line in enumerate(lines[1:-1], start=2)]
    _check(path, records)
    return [session, *records]


def measurements_of(records: Sequence[Record]) -> Measurements:
    """A session's records by kind, its rounds brought together; the first must be the session."""
    session = records[0]
    assert isinstance(session, Session), session

    def every(kind: type[Kind]) -> tuple[Kind, ...]:
        return tuple(record for record in records if isinstance(record, kind))

    return Measurements(
        session=session,
        artifacts=every(ArtifactRecord),
        measurements=(*every(Measurement), *merge(records)),
        refusals=every(Refusal),
        end=next(iter(every(End)), None),
        steps=every(Step),
        peaks=every(Peak),
        bandwidths=every(Bandwidth),
        served=every(Served),
        harness=every(Harness),
        surroundings=every(Surroundings),
        missing=every(Missing),
    )


def _lines(records: Iterable[Record]) -> bytes:
    return b"".join(msgspec.json.encode(record) + b"\n" for record in records)


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
        where = f"{path}, line {number}, field"
        if isinstance(record, Session):
            raise UserError(f"{where} type: a second session; a file holds one session")
        if isinstance(record, End) and number != last:
            raise UserError(f"{where} type: an end record before the last line")
        if isinstance(record, Measurement | Step | Served) and record.artifact not in known:
            raise UserError(f"{where} artifact: no artifact record has {record.artifact!r}")
        if isinstance(record, Measurement):
            if record.launches and len(record.launches) != len(record.samples):
                raise UserError(f"{where} launches: {len(record.launches)} for {len(record.samples)} rounds of samples")
            _check_samples(f"{where} samples", record.metric, record.samples, record.failure)
        if isinstance(record, Round):
            for index, turn in enumerate(record.turns):
                if turn.artifact not in known:
                    raise UserError(f"{where} turns[{index}].artifact: no artifact record has {turn.artifact!r}")
                _check_samples(f"{where} turns[{index}].samples", turn.metric, (turn.samples,), turn.failure)


def _check_samples(where: str, metric: str, samples: tuple[tuple[float, ...], ...], failure: str | None) -> None:
    if failure is None and not (samples and all(samples)):
        raise UserError(f"{where}: no samples, or a round without, but no failure")
    if metric == "latency" and any(value <= 0 for turn in samples for value in turn):
        raise UserError(f"{where}: a latency that is not positive")
