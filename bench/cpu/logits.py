"""Compares every artifact's answers with ONNX Runtime's on the same weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench.cpu.plan import weights_of
from bench.cpu.solo import ask
from bench.measure.messages import Infer, Inferred
from bench.measure.process import WorkerError
from bench.measurement import Measurement

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from bench.measure.participant import Condition, Entry
    from bench.measure.process import Worker
    from bench.measure.session import Plan

METRIC = "logits"
LIMITS = {"float32": 1e-4, "float16": 1e-1, "bfloat16": 1e-1, "int8": 5e-1}
"""By precision, of the largest answer. Below float32 they find what is wrong altogether, and do not say what is good
enough: that is for the accuracy of a trained network. A ViT-B/16 of dense random weights, whose sums have up to 3072
products, is 5e-2 off in native's float16."""
PICTURES = 16


def compare(
    plan: Plan, references: dict[str, Entry], spawn: Callable[[], Worker], advance: Callable[[str], None]
) -> list[Measurement]:
    """One measurement per artifact and batch size, under the first condition it is timed in."""
    expected: dict[str, NDArray[np.float64]] = {}
    done: dict[tuple[str, int], Measurement] = {}
    first = plan.conditions[0][0]
    for condition, entries in plan.conditions:
        for entry in entries:
            weights, key = weights_of(entry.record), (entry.record.digest, condition.batch_size)
            if key in done:
                continue
            advance(f"comparing the answers of {entry.record.name} with {entry.record.engine}")
            samples: tuple[tuple[float, ...], ...] = ()
            failure = None
            try:
                if weights not in expected:
                    expected[weights] = _outputs(plan, references[weights], first, spawn)
                samples = ((relative_difference(_outputs(plan, entry, condition, spawn), expected[weights]),),)
            except WorkerError as error:
                failure = str(error)
            done[key] = Measurement(
                artifact=entry.record.digest,
                metric=METRIC,
                unit="relative",
                batch_size=condition.batch_size,
                threads=condition.threads,
                samples=samples,
                failure=failure,
            )
    return list(done.values())


def relative_difference(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    """``max|found - expected| / max|expected|``; raises ``WorkerError`` where a value is not finite."""
    if found.shape != expected.shape or not np.isfinite(found).all() or not np.isfinite(expected).all():
        raise WorkerError(f"answers {found.shape} against {expected.shape}, or a value that is not finite")
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _outputs(plan: Plan, entry: Entry, condition: Condition, spawn: Callable[[], Worker]) -> NDArray[np.float64]:
    answer = ask(entry, condition, plan.settings, Infer(PICTURES), spawn)
    assert isinstance(answer, Inferred), answer
    return np.asarray(answer.outputs, np.float64)
