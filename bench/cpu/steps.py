"""Times native's network step by step, and measures before and after what the processor can do."""

from __future__ import annotations

import tempfile
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cpu.plan import NATIVE, find
from bench.cpu.solo import ask
from bench.measurement import Step
from bench.messages import Profile, Profiled
from bench.peaks import build, measure_program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bench.measurement import Record
    from bench.process import Worker
    from bench.protocol import Condition, Entry
    from bench.session import Plan

CALLS = 20


def profile(
    plan: Plan, weights: Iterable[str], spawn: Callable[[], Worker], advance: Callable[[str], None]
) -> list[Record]:
    """Steps of native with these weights, and peaks, under every condition; raises ``WorkerError`` where one fails."""
    records: list[Record] = []
    with tempfile.TemporaryDirectory() as folder:
        program = build(Path(folder))
        for condition, entries in plan.conditions:
            advance(f"measuring the processor's peaks, threads {condition.threads}")
            records += chain.from_iterable(measure_program(program, condition.cpus))
            for name in weights:
                entry = find(entries, name, NATIVE, condition.batch_size)
                if entry is not None:
                    advance(f"timing the steps of {entry.record.name}, threads {condition.threads}")
                    records += _steps(plan, entry, condition, spawn)
            records += chain.from_iterable(measure_program(program, condition.cpus))
    return records


def _steps(plan: Plan, entry: Entry, condition: Condition, spawn: Callable[[], Worker]) -> list[Step]:
    answer = ask(entry, condition, plan.settings, Profile(CALLS), spawn)
    assert isinstance(answer, Profiled), answer
    return [
        Step(
            artifact=entry.record.digest,
            batch_size=condition.batch_size,
            threads=condition.threads,
            name=step.name,
            layer=step.layer,
            kernel=step.kernel,
            macs=step.macs,
            samples_ms=tuple(samples),
        )
        for step, samples in zip(answer.steps, answer.samples_ms, strict=True)
    ]
