"""One bench session: finds the artifacts, measures condition after condition, and writes each as it is finished."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bench.environment import describe, gpus, load_average, now, usable_cpus
from bench.measurement import SCHEMA_VERSION, ArtifactRecord, End, Record, Refusal, Session, Settings
from bench.measurement_file import Writer
from bench.process import ProcessWorker, anonymous
from bench.protocol import Condition, Entry, measure, steps
from runtime import ArtifactError, UserError, open_artifact
from runtime.artifact import MANIFEST, artifact_folders
from runtime.data import load_evaluation_set

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bench.process import Worker


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

    def steps(self) -> int:
        """Steps of the whole session, for a progress bar."""
        return sum(steps(len(entries), self.settings, condition.whole_set) for condition, entries in self.conditions)


def plan_session(paths: Sequence[Path], evaluation: Path, threads: Sequence[int], settings: Settings) -> Plan:
    """Find the artifacts under ``paths`` and check what can be checked before the first process starts.

    Raises:
        UserError: no usable artifact, no evaluation set, or more threads than CPUs.
    """
    cpus = usable_cpus()
    usable = len(cpus)
    wanted = tuple(sorted(set(threads)))
    if not wanted or wanted[0] < 1 or wanted[-1] > usable:
        raise UserError(
            f"--threads {' '.join(map(str, threads))}: this process may use {usable} CPUs, "
            f"and more threads than CPUs measure the scheduler; give numbers from 1 to {usable}"
        )
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
    plan: Plan, out: Path, advance: Callable[[str], None], spawn: Callable[[], Worker] = ProcessWorker
) -> int:
    """Measure everything and write ``out``.

    Returns:
        The number of conditions that were finished. Ctrl-C ends the session early: finished conditions are in
        ``out``, the one under way is lost; if none was finished, ``out`` is left as it was.
    """
    info = load_evaluation_set(plan.evaluation)
    writer = Writer(out)
    session = Session(
        schema_version=SCHEMA_VERSION,
        environment=describe(),
        settings=plan.settings,
        threads=plan.threads,
        evaluation=info.info.name,
        pictures=len(info),
    )
    finished = 0
    complete = False
    try:
        writer.write([session, *plan.refusals, *(entry.record for entry in plan.entries), *plan.notes])
        for condition, entries in plan.conditions:
            tell = partial(_tell, advance, f"batch {condition.batch_size}, threads {condition.threads}")
            writer.write(measure(entries, condition, plan.settings, spawn, tell))
            finished += 1
        complete = True
    except KeyboardInterrupt:
        pass
    finally:
        if finished:
            writer.write([End(ended=now(), load_average=load_average(), complete=complete, gpus=gpus())])
            writer.finish()
        else:
            writer.abandon()
    return finished


def _tell(advance: Callable[[str], None], condition: str, step: str) -> None:
    advance(f"{condition}: {step}")
