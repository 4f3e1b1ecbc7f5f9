"""What is measured once per artifact and condition: steps, the server scenario, the answers to the evaluation set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.measure.messages import Sample
from bench.measure.server import search
from bench.measurement import Measurement, Missing, Step, is_dense
from bench.metric import AnswerMetric, load_metric, metric_names
from bench.naming import FLOAT, NATIVE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.measure.participant import Condition, Entry, Participant
    from bench.measure.stage import Stage
    from bench.measurement import ArtifactRecord, Record, Settings

STEPS, SERVER = "steps", "server"
PROFILE_CALLS = 20


def due(entry: Entry, entries: Sequence[Entry], condition: Condition, settings: Settings) -> list[str]:
    """What is measured once of an artifact: names of metrics, ``steps`` and ``server``, in this order."""
    record = entry.record
    names = [STEPS] if record.engine == NATIVE else []
    names += [SERVER] if SERVER in settings.scenarios else []
    if condition.whole_set:
        reference = _reference([other.record for other in entries], record.lineage.recipe)
        names += [name for name in metric_names("artifact") if reference is not None or not _needs_dense(name)]
    return names


def once(participants: Sequence[Participant], stage: Stage, launch: int, taken: frozenset[tuple[str, str]]) -> None:
    """Measure what is due and not in ``taken``, and write it artifact by artifact; each ends when it has given all."""
    entries = [participant.entry for participant in participants]
    classes: dict[str, tuple[int, ...]] = {}
    # dense ones first: the others' answers are held against theirs
    for participant in sorted(participants, key=lambda p: not is_dense(p.entry.record)):
        record = participant.entry.record
        names = due(participant.entry, entries, stage.condition, stage.settings)
        wanted = [name for name in names if (record.digest, name) not in taken]
        reference = _reference([entry.record for entry in entries], record.lineage.recipe)
        if stage.condition.whole_set and reference == record and participant.is_alive():
            classes[record.lineage.recipe] = participant.predict()
        for name in wanted:
            stage.advance(f"{name} of {participant.label}")
            if participant.is_alive():
                stage.write(_measure(participant, name, stage, classes.get(record.lineage.recipe, ())))
                if not participant.is_alive():
                    stage.write_round(launch, [participant], [participant.report()])
        participant.worker.close()


def _measure(participant: Participant, name: str, stage: Stage, classes: tuple[int, ...]) -> Sequence[Record]:
    if name == STEPS:
        return _steps(participant, stage.condition)
    if name == SERVER:
        return search(participant, stage.condition, stage.settings)
    if _needs_dense(name) and not classes:
        reason = "the dense network of its recipe could not answer the evaluation set"
        return [Missing(name, reason, participant.entry.record.digest)]
    taken = participant.sample(Sample(metric=name, reference=classes if _needs_dense(name) else ()))
    if isinstance(taken, Missing):
        return [taken]
    if not taken.samples:
        return []
    return [
        Measurement(
            artifact=taken.artifact,
            metric=taken.metric,
            unit=taken.unit,
            batch_size=stage.condition.batch_size,
            threads=stage.condition.threads,
            samples=(taken.samples,),
            cpus=participant.cpus,
            stable=taken.stable,
        )
    ]


def _steps(participant: Participant, condition: Condition) -> list[Step]:
    found = participant.profile(PROFILE_CALLS)
    if found is None:
        return []
    return [
        Step(
            artifact=participant.entry.record.digest,
            batch_size=condition.batch_size,
            threads=condition.threads,
            name=step.name,
            layer=step.layer,
            kernel=step.kernel,
            macs=step.macs,
            samples_ms=tuple(samples),
        )
        for step, samples in zip(found.steps, found.samples_ms, strict=True)
    ]


def _needs_dense(metric: str) -> bool:
    found = load_metric(metric)
    return isinstance(found, AnswerMetric) and found.against == "dense"


def _reference(records: Sequence[ArtifactRecord], recipe: str) -> ArtifactRecord | None:
    """The dense network of a recipe, in float32 if there is one; all of them answer alike but for rounding."""
    dense = [record for record in records if record.lineage.recipe == recipe and is_dense(record)]
    return min(dense, key=lambda record: record.target.dtype != FLOAT, default=None)
