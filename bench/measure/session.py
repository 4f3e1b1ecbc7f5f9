"""One bench session: finds the artifacts, measures condition after condition, and goes on where one was interrupted."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bench.environment import describe, gpus, load_average, now, usable_cpus
from bench.machine.peaks import measure_capacity
from bench.measure import yardstick
from bench.measure.alone import measure_harness
from bench.measure.done import done_of
from bench.measure.participant import Condition, Entry
from bench.measure.process import ProcessWorker, anonymous
from bench.measure.protocol import measure, steps
from bench.measure.stage import Stage
from bench.measurement import (
    SCHEMA_VERSION,
    ArtifactRecord,
    End,
    Measurement,
    Missing,
    Record,
    Refusal,
    Round,
    Session,
    Settings,
)
from bench.measurement_file import Writer, part_of, read_records
from runtime import ArtifactError, UserError, open_artifact
from runtime.artifact import MANIFEST, artifact_folders
from runtime.data import load_evaluation_set

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bench.measure.process import Worker
    from bench.measure.yardstick import Yardstick

PEAK_REPETITIONS = 7


class Plan(msgspec.Struct, frozen=True):
    """What a session will measure: every condition with the entries that take part in it, in this order.

    ``notes`` are records that the session begins with: what was measured before.
    """

    entries: tuple[Entry, ...]
    refusals: tuple[Refusal, ...]
    evaluation: Path
    conditions: tuple[tuple[Condition, tuple[Entry, ...]], ...]
    settings: Settings
    notes: tuple[Record, ...] = ()

    @property
    def threads(self) -> tuple[int, ...]:
        """The numbers of threads, each once, ascending."""
        return tuple(sorted({condition.threads for condition, _ in self.conditions}))

    def steps(self, records: Sequence[Record] = ()) -> int:
        """Steps that are left of the whole session, for a progress bar; ``records`` are there already."""
        around = 1 if records else 3  # the harness, and the processor before and after
        return around + sum(
            steps(entries, condition, self.settings, done_of(records, condition.batch_size, condition.threads))
            for condition, entries in self.conditions
        )


def plan_session(
    paths: Sequence[Path],
    evaluation: Path,
    threads: Sequence[int],
    settings: Settings,
    baselines: Sequence[Yardstick] = (),
) -> Plan:
    """Find the artifacts under ``paths`` and check what can be checked before the first process starts.

    Raises:
        UserError: no usable artifact, no evaluation set, more threads than CPUs, or a baseline that cannot join.
    """
    cpus = usable_cpus()
    wanted = tuple(sorted(set(threads)))
    _check_threads(threads, len(cpus))
    load_evaluation_set(evaluation, verify=True)
    entries, refusals = find_artifacts(paths)
    if not entries:
        reasons = "; ".join(refusal.reason for refusal in refusals)
        given = " ".join(map(str, paths))
        raise UserError(
            f"no artifact can be measured under {given}: {reasons or f'no {MANIFEST} was found'}; "
            f"`st3 compile` makes artifacts"
        )
    sizes = sorted({size for entry in entries for size in entry.record.target.sizes})
    recipes = [entry.record.lineage.recipe for entry in entries]
    for baseline in baselines:
        record = yardstick.record_of(baseline, sizes, recipes, wanted[-1])
        entries.append(Entry(folder=str(baseline.path), record=record))
    conditions = [
        Condition(size, number, cpus[:number], str(evaluation.resolve()), whole_set=number == wanted[-1])
        for size in sizes
        for number in wanted
    ]
    return Plan(
        entries=tuple(entries),
        refusals=tuple(refusals),
        evaluation=evaluation.resolve(),
        conditions=tuple((condition, built_for(entries, condition.batch_size)) for condition in conditions),
        settings=settings,
    )


def _check_threads(threads: Sequence[int], usable: int) -> None:
    if not threads or min(threads) < 1 or max(threads) > usable:
        raise UserError(
            f"--threads {' '.join(map(str, threads))}: this process may use {usable} CPUs, "
            f"and more threads than CPUs measure the scheduler; give numbers from 1 to {usable}"
        )


def built_for(entries: Iterable[Entry], batch_size: int) -> tuple[Entry, ...]:
    """The artifacts that are built for a batch size."""
    return tuple(entry for entry in entries if batch_size in entry.record.target.sizes)


def find_artifacts(paths: Sequence[Path]) -> tuple[list[Entry], list[Refusal]]:
    """Open every artifact at or below ``paths``, each once; what cannot be opened becomes a refusal."""
    entries: dict[str, Entry] = {}
    refusals = []
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path} is no folder; give an artifact, or a folder in which to look for artifacts")
        for folder in map(Path.resolve, artifact_folders(path)):
            try:
                # the digests are checked by the worker, which reads the files anyway
                artifact = open_artifact(folder, verify=False)
            except ArtifactError as error:
                refusals.append(Refusal(name="/".join(folder.parts[-2:]), reason=anonymous(str(error))))
                continue
            data = artifact.manifest
            record = ArtifactRecord(
                digest=artifact.digest,
                name=data.name,
                backend=data.backend,
                engine=data.engine,
                target=data.target,
                lineage=data.lineage,
                layers=data.layers,
                size_bytes=artifact.size_bytes,
                macs_dense=data.macs_dense,
                macs_nonzero=data.macs_nonzero,
            )
            entries.setdefault(artifact.digest, Entry(folder=str(folder), record=record))
    return list(entries.values()), refusals


def run_session(
    plan: Plan,
    out: Path,
    advance: Callable[[str], None],
    spawn: Callable[[], Worker] = ProcessWorker,
    resume: bool = False,
) -> int:
    """Measure everything and write ``out``; until it is whole it lies in ``out`` with ``.part`` behind its name.

    Args:
        plan: what to measure.
        out: the file.
        advance: is told what begins.
        spawn: starts a worker process.
        resume: go on with what ``.part`` holds; what is there is not measured again.

    Returns:
        The number of conditions that are finished. Ctrl-C ends the session early, also after the last of them, and
        leaves ``.part`` with every finished round to be continued, or nothing where nothing was measured.

    Raises:
        UserError: there is nothing to resume, or it was another session.
    """
    records = resumable(plan, out) if resume else []
    writer = Writer(out, resume)
    kept = bool(records)
    finished, complete = 0, False

    def write(made: Iterable[Record]) -> None:
        nonlocal kept
        given = list(made)
        kept = kept or any(isinstance(record, Round | Measurement) for record in given)
        writer.write(given)

    try:
        if not records:
            _open(plan, writer, advance, spawn)
        for condition, entries in plan.conditions:
            tell = partial(_tell, advance, f"batch {condition.batch_size}, threads {condition.threads}")
            done = done_of(records, condition.batch_size, condition.threads)
            measure(entries, Stage(condition, plan.settings, spawn, tell, write), done)
            finished += 1
        write([*_capacity(plan, advance), End(ended=now(), load_average=load_average(), complete=True, gpus=gpus())])
        complete = True
    except KeyboardInterrupt:
        pass
    finally:
        _close(writer, complete, kept)
    return finished


def _close(writer: Writer, complete: bool, kept: bool) -> None:
    if complete:
        writer.finish()
    elif kept:
        writer.keep()
    else:
        writer.abandon()


def resumable(plan: Plan, out: Path) -> list[Record]:
    """What an interrupted session has measured; raises ``UserError`` where there is none or it is not the same."""
    part = part_of(out)
    if not part.is_file():
        raise UserError(f"--resume: there is no {part}, so nothing was interrupted; run the bench without it")
    records = read_records(part, cut_off=True)
    old, new = records[0], _session(plan)
    assert isinstance(old, Session)
    pairs = {
        "the processor": (old.environment.machine.cpu_model, new.environment.machine.cpu_model),
        "the commit of st3": (old.environment.commit, new.environment.commit),
        "the packages": (old.environment.packages, new.environment.packages),
        "the settings": (old.settings, new.settings),
        "the threads": (old.threads, new.threads),
        "the evaluation set": ((old.evaluation, old.pictures), (new.evaluation, new.pictures)),
        "the artifacts": (
            {record.digest for record in records if isinstance(record, ArtifactRecord)},
            {entry.record.digest for entry in plan.entries},
        ),
    }
    changed = [what for what, (before, after) in pairs.items() if before != after]
    if changed:
        raise UserError(
            f"--resume: {' and '.join(changed)} differ from those of {part}, and a session must not mix them; "
            f"run the bench without --resume, which sets that file aside"
        )
    return records


def _session(plan: Plan) -> Session:
    info = load_evaluation_set(plan.evaluation)
    return Session(
        schema_version=SCHEMA_VERSION,
        environment=describe(),
        settings=plan.settings,
        threads=plan.threads,
        evaluation=info.info.name,
        pictures=len(info),
    )


def _open(plan: Plan, writer: Writer, advance: Callable[[str], None], spawn: Callable[[], Worker]) -> None:
    """Write what a session begins with, and measure what is measured before all artifacts."""
    records = [*plan.refusals, *(entry.record for entry in plan.entries), *plan.notes]
    writer.write([_session(plan), *records])
    advance("measuring what the harness itself costs")
    writer.write([measure_harness(usable_cpus()[:1], spawn)])
    writer.write(_capacity(plan, advance))


def _capacity(plan: Plan, advance: Callable[[str], None]) -> list[Record]:
    """The processor's peak and bandwidth with each number of threads, at the beginning and at the end."""
    advance("measuring the processor's peak and bandwidth")
    cpus = usable_cpus()
    found = measure_capacity([cpus[:threads] for threads in plan.threads], PEAK_REPETITIONS)
    note = [Missing("peak", found.note)] if found.note else []
    return [*found.peaks, *found.bandwidths, *note]


def _tell(advance: Callable[[str], None], condition: str, step: str) -> None:
    advance(f"{condition}: {step}")
