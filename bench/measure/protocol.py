"""How one condition is measured: every artifact warm in its own process, then taking turns, round after round.

The machine is shared and its speed drifts by tens of per cent within minutes. Artifacts that are measured one after
the other would inherit that drift as a difference; artifacts that take short turns share it, and their ratio within
one round does not contain it. Only one worker runs at a time, the others are stopped.

Two processes of one artifact differ, for their memory lies differently. The rounds are shared among several launches,
in each of which every artifact has a new process, so that this is in the samples, and in the interval made of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.measure.messages import Sample
from bench.measure.once import due, once
from bench.measure.participant import Participant
from bench.measure.surroundings import Watch
from bench.measurement import Missing, is_dense
from bench.metric import load_metric, metric_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.measure.done import Done
    from bench.measure.participant import Condition, Entry
    from bench.measure.stage import Stage
    from bench.measurement import Settings, Turn

LAUNCHES = 5
"""Unless told otherwise: enough to see how much processes differ, few enough to load everything so often."""


def measure(entries: Sequence[Entry], stage: Stage, done: Done) -> None:
    """Measure the artifacts of one condition side by side, and write every round as soon as it is finished.

    Args:
        entries: artifacts that are built for the condition's batch size.
        stage: the condition, the protocol's numbers, and whom to tell.
        done: what was measured before; it is not measured again.
    """
    if not left(entries, stage.condition, stage.settings, done):
        return
    failed, base = dict(done.failed), done.base
    begin = done.rounds
    for index, count in enumerate(done.shares(stage.settings)):
        here = [entry for entry in entries if entry.record.digest not in failed]
        rounds = range(begin, begin + count)
        base, failures = launch(here, stage, done.launches + index, rounds, base, done.once if index == 0 else None)
        failed |= failures
        begin += count


def left(entries: Sequence[Entry], condition: Condition, settings: Settings, done: Done) -> bool:
    """Whether there is anything to measure that was not measured before."""
    todo = {(e.record.digest, name) for e in entries for name in due(e, entries, condition, settings)}
    return done.rounds < settings.rounds or any(key[0] not in done.failed for key in todo - done.once)


def steps(entries: Sequence[Entry], condition: Condition, settings: Settings, done: Done) -> int:
    """How often ``measure`` calls ``advance`` if nothing fails."""
    if not left(entries, condition, settings, done):
        return 0
    here = [entry for entry in entries if entry.record.digest not in done.failed]
    shares = done.shares(settings)
    once_each = sum(len(due(entry, entries, condition, settings)) for entry in here)
    per_launch = len(here) + 1 + len(here) * len(metric_names("condition"))
    return len(shares) * per_launch + sum(shares) * (len(here) + 1) * len(round_metrics(settings)) + once_each


def round_metrics(settings: Settings) -> list[str]:
    """The metrics of the scenarios that were asked for; without latency there is no warm-up and no rate to begin at."""
    wanted = {"single-stream", *settings.scenarios}
    return [name for name in metric_names("round") if load_metric(name).scenario in wanted]


def turns(workers: int, rounds: int, first: int = 0) -> list[list[int]]:
    """The order of the workers in each round, the first of which has the number ``first``.

    Each round begins one worker later, so that none is always first, and every other round runs backwards, so
    that none always follows the same neighbour.
    """
    orders = []
    for number in range(first, first + rounds):
        start = number % workers if workers else 0
        order = [*range(start, workers), *range(start)]
        orders.append(order if number % 2 == 0 else order[::-1])
    return orders


def calls_per_turn(latency_ms: float, settings: Settings, share: float = 1.0) -> int:
    """As many calls as fill a turn, or ``share`` of one: at least one, at most ``calls_per_turn_max``."""
    calls = round(share * settings.turn_s * 1000 / latency_ms) if latency_ms > 0 else settings.calls_per_turn_max
    return max(1, min(settings.calls_per_turn_max, calls))


def settle_calls(calls: int, settings: Settings) -> int:
    """Unrecorded calls at the start of a turn: at least one, for the one before has emptied the caches.

    None where one call fills the turn: it takes so long that the caches hardly matter, and would take twice as long.
    """
    return max(1, round(calls * settings.settle_fraction)) if calls > 1 else 0


def launch(
    entries: Sequence[Entry],
    stage: Stage,
    number: int,
    rounds: range,
    base: str,
    taken: frozenset[tuple[str, str]] | None,
) -> tuple[str, dict[str, str]]:
    """Start every artifact anew and give it ``rounds``.

    Args:
        entries: the artifacts that have not failed before.
        stage: see ``Stage``.
        number: of this launch.
        rounds: numbers of its rounds.
        base: the artifact that the control of earlier launches ran; empty where there was none.
        taken: in the launch that measures what is due once, what of that is there already.

    Returns:
        The artifact that the control ran, and which artifacts failed and why.
    """
    participants: list[Participant] = []
    watch = Watch(gpus=any(entry.record.target.device != "cpu" for entry in entries))
    try:
        participants += [Participant(entry, stage.spawn()) for entry in entries]
        _prepare(participants, stage, number)
        control = _control(participants, stage, base)
        participants += control
        _prepare(control, stage, number)
        for index, order in zip(rounds, turns(len(participants), len(rounds), rounds.start), strict=True):
            _round([participants[place] for place in order], stage, number, index)
            watch.look()
        artifacts = participants[: len(entries)]
        _after(artifacts, stage, number, note_missing=taken is not None)
        if taken is not None:
            once(artifacts, stage, number, taken)
    finally:
        for participant in participants:
            participant.worker.close()
    stage.write([watch.surroundings(stage.condition.batch_size, stage.condition.threads, number)])
    failures = {p.entry.record.digest: p.failure for p in participants if p.failure is not None and not p.control}
    return base or next((p.entry.record.digest for p in control), ""), failures


def _prepare(participants: Sequence[Participant], stage: Stage, number: int) -> None:
    # all are loaded before the first warms up: what is measured later must not be disturbed by somebody's start
    for participant in participants:
        participant.load(stage.condition, stage.settings)
    for participant in participants:
        stage.advance(f"warming up {participant.label}")
        if participant.is_alive():
            participant.warm(stage.settings)
    stage.write_round(number, participants, [p.report() for p in participants if not p.is_alive()])


def _control(participants: Sequence[Participant], stage: Stage, base: str) -> list[Participant]:
    """A second worker on ``base``, else on the fastest dense artifact (the fastest of all where none is dense)."""
    alive = [participant for participant in participants if participant.is_alive()]
    dense = [participant for participant in alive if is_dense(participant.entry.record)]
    chosen = [participant for participant in alive if participant.entry.record.digest == base]
    if not alive:
        return []
    twin = min(chosen or dense or alive, key=lambda participant: participant.latency_ms)
    return [Participant(twin.entry, stage.spawn(), control=1)]


def _round(participants: Sequence[Participant], stage: Stage, number: int, index: int) -> None:
    """Every participant's turn of every metric, in this order."""
    settings = stage.settings
    found: list[Turn] = []
    for participant in participants:
        for metric in round_metrics(settings):
            stage.advance(f"round {index + 1} of {settings.rounds}")
            if participant.is_alive() and participant.has(metric):
                calls = calls_per_turn(participant.latency_ms, settings, load_metric(metric).turn_share)
                taken = participant.sample(Sample(metric=metric, calls=calls, settle=settle_calls(calls, settings)))
                assert not isinstance(taken, Missing), taken  # what a call takes can be measured everywhere
                found.append(taken)
    stage.write_round(number, participants, found)


def _after(participants: Sequence[Participant], stage: Stage, number: int, note_missing: bool) -> None:
    """What is due once per launch. Memory is among it: running the whole evaluation set would count its file."""
    found: list[Turn] = []
    missing: list[Missing] = []
    for participant in participants:
        for metric in metric_names("condition"):
            stage.advance(f"{metric} of {participant.label}")
            if participant.is_alive() and participant.has(metric):
                taken = participant.sample(Sample(metric=metric))
                if isinstance(taken, Missing):
                    missing.append(taken)
                else:
                    found.append(taken)
    stage.write_round(number, participants, found)
    if note_missing:
        stage.write(missing)
