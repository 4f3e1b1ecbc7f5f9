"""The worker process: loads one artifact, and nothing else, and measures it when asked (``python -m bench.worker``).

Requests arrive as lines of JSON on stdin and answers leave on what stdout was at the start. File descriptor 1 itself
is pointed at stderr before anything is loaded, so that an engine's own prints cannot fall between the answers.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import statistics
import sys
import traceback
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from bench.messages import (
    Answer,
    Failed,
    Infer,
    Inferred,
    Load,
    Loaded,
    Profile,
    Profiled,
    Request,
    Sample,
    Sampled,
    Warm,
    Warmed,
)
from bench.metric import load_metric
from runtime import UserError, load
from runtime.batches import run_all
from runtime.data import load_evaluation_set

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.metric import Batch
    from runtime.data import EvaluationSet
    from runtime.engine import Engine

INPUT_BATCHES = 4
WARM_CALLS = 3
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG in <linux/prctl.h>


class Bench(msgspec.Struct):
    """What a worker holds between two requests."""

    engine: Engine
    evaluation: EvaluationSet
    inputs: tuple[Batch, ...]
    batch_size: int


def open_bench(request: Load) -> tuple[Bench, Loaded]:
    """Pin, load, and check that the evaluation set is made for this artifact."""
    cpus: tuple[int, ...] = ()
    if sys.platform == "linux":
        # before the engine starts its threads, because they inherit it
        os.sched_setaffinity(0, request.cpus)
        cpus = tuple(sorted(os.sched_getaffinity(0)))
    engine = load(request.artifact, request.threads, engine=request.engine)
    manifest = engine.artifact.manifest
    evaluation = load_evaluation_set(Path(request.evaluation))
    if evaluation.info.preprocessing != manifest.preprocessing or len(evaluation.info.classes) != len(manifest.classes):
        raise UserError(
            f"the evaluation set {evaluation.info.name!r} has {evaluation.info.preprocessing} and "
            f"{len(evaluation.info.classes)} classes, the artifact needs {manifest.preprocessing} and "
            f"{len(manifest.classes)}; give the evaluation set that its training wrote"
        )
    if len(evaluation) == 0:
        raise UserError(f"the evaluation set {evaluation.info.name!r} is empty; train again to rewrite it")
    inputs = draw_inputs(evaluation, request.batch_size, request.seed)
    return Bench(engine, evaluation, inputs, request.batch_size), Loaded(cpus=cpus)


def draw_inputs(evaluation: EvaluationSet, batch_size: int, seed: int) -> tuple[Batch, ...]:
    """Random full batches of real pictures: zeros or noise would change the sparsity of the activations."""
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(INPUT_BATCHES):
        rows = np.sort(generator.integers(len(evaluation), size=batch_size))
        images = evaluation.info.preprocessing.apply(np.asarray(evaluation.images[rows]))
        drawn.append((images, np.asarray(evaluation.labels[rows])))
    return tuple(drawn)


def warm(bench: Bench, request: Warm) -> Warmed:
    """Run windows of calls until the medians of two in a row agree; a window has at least three calls."""
    latency = load_metric("latency")
    end = perf_counter() + request.limit_s
    calls = 0
    before = None
    while True:
        window: list[float] = []
        window_end = perf_counter() + request.window_s
        while len(window) < WARM_CALLS or perf_counter() < window_end:
            window += latency.sample(bench.engine, bench.inputs[:1])
        calls += len(window)
        now = statistics.median(window)
        stable = before is not None and abs(now - before) <= request.tolerance * min(now, before)
        if stable or perf_counter() >= end:
            return Warmed(latency_ms=now, calls=calls, stable=stable)
        before = now


def sample(bench: Bench, request: Sample) -> Sampled:
    """Sample one metric on the drawn inputs, or on the whole evaluation set."""
    metric = load_metric(request.metric)
    batches: Iterable[Batch]
    if request.calls:
        inputs = itertools.cycle(bench.inputs)
        if request.settle:
            # the artifact that ran before has emptied the caches, and a thread pool may have gone to sleep
            metric.sample(bench.engine, itertools.islice(inputs, request.settle))
        batches = itertools.islice(inputs, request.calls)
    else:
        batches = bench.evaluation.batches(bench.batch_size)
    return Sampled(samples=metric.sample(bench.engine, batches))


def infer(bench: Bench, request: Infer) -> Inferred:
    """Run the first pictures of the evaluation set."""
    images = bench.evaluation.info.preprocessing.apply(np.asarray(bench.evaluation.images[: request.pictures]))
    outputs = run_all(bench.engine, images)
    return Inferred(outputs=outputs.reshape(len(outputs), -1).tolist())


def profile(bench: Bench, request: Profile) -> Profiled:
    """Time the steps of the native engine; no other says what its steps are."""
    from runtime.engines.native import NativeEngine

    engine = bench.engine
    if not isinstance(engine, NativeEngine):
        raise UserError(f"the steps of {engine.artifact.manifest.name} cannot be timed: only native's can")
    name = engine.artifact.manifest.input.name
    inputs = itertools.islice(itertools.cycle(bench.inputs), request.calls)
    runs = [engine.profile({name: images}) for images, _ in inputs]
    return Profiled(
        steps=[time.step for time in runs[0]],
        samples_ms=[[time.ms for time in step] for step in zip(*runs, strict=True)],
    )


def answer(bench: Bench | None, request: Request) -> tuple[Bench | None, Answer]:
    """Fulfil one request; every exception becomes a ``Failed`` that says what happened."""
    try:
        if isinstance(request, Load):
            return open_bench(request)
        assert bench is not None, "the first request must be load"
        if isinstance(request, Warm):
            return bench, warm(bench, request)
        if isinstance(request, Infer):
            return bench, infer(bench, request)
        if isinstance(request, Profile):
            return bench, profile(bench, request)
        assert isinstance(request, Sample)
        return bench, sample(bench, request)
    except UserError as error:
        return bench, Failed(reason=str(error))
    except Exception as error:  # an engine raises whatever its package raises; the bench reports it and goes on
        traceback.print_exc()
        return bench, Failed(reason=f"{type(error).__name__}: {error}")


def main() -> None:
    """Serve requests until stdin closes."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the bench, which then ends its workers
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)  # else a killed bench leaves stopped workers behind
    bench: Bench | None = None
    for line in sys.stdin.buffer:
        request: Request = msgspec.json.decode(line, type=Request)
        bench, reply = answer(bench, request)
        answers.write(msgspec.json.encode(reply) + b"\n")
        answers.flush()
    if bench is not None:
        bench.engine.close()


if __name__ == "__main__":
    main()
