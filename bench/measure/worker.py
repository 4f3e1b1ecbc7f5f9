"""The worker process: loads one artifact and nothing else, and measures it (``python -m bench.measure.worker``).

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
import tempfile
import traceback
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from bench.measure.arrivals import serve
from bench.measure.idle import idle_calls
from bench.measure.messages import (
    Answer,
    Answered,
    Failed,
    Idle,
    Idled,
    Infer,
    Inferred,
    Load,
    Loaded,
    Predict,
    Predicted,
    Profile,
    Profiled,
    Request,
    Sample,
    Sampled,
    Serve,
    Unavailable,
    Warm,
    Warmed,
)
from bench.measure.yardstick import SUFFIX, open_yardstick
from bench.metric import AnswerMetric, Answers, collect, load_metric
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
    """What a worker holds between two requests. ``unfit``: why the answers cannot be held against the labels."""

    engine: Engine
    evaluation: EvaluationSet
    inputs: tuple[Batch, ...]
    batch_size: int
    unfit: str = ""
    answers: Answers | None = None


def open_bench(request: Load, folder: Path) -> tuple[Bench, Loaded]:
    """Pin, load, and check that the evaluation set is made for this artifact; ``folder`` is empty and outlives it."""
    cpus = pin(request.cpus)
    evaluation = load_evaluation_set(Path(request.evaluation))
    if len(evaluation) == 0:
        raise UserError(f"the evaluation set {evaluation.info.name!r} is empty; train again to rewrite it")
    if request.artifact.endswith(SUFFIX):
        assert request.engine is not None, "a file does not say who runs it"
        path = Path(request.artifact)
        engine = open_yardstick(
            path, request.engine, request.dtype, request.batch_size, request.threads, evaluation, folder
        )
    else:
        engine = load(request.artifact, request.threads, engine=request.engine)
    foreign = _foreign(evaluation, engine)
    if foreign and not request.artifact.endswith(SUFFIX):
        raise UserError(f"{foreign}; give the evaluation set that its training wrote")
    draw = draw_noise if foreign else draw_inputs
    inputs = draw(evaluation, request.batch_size, request.seed, engine.artifact.manifest.input.shape)
    return Bench(engine, evaluation, inputs, request.batch_size, foreign or _no_classes(engine)), Loaded(cpus=cpus)


def pin(cpus: tuple[int, ...]) -> tuple[int, ...]:
    """Bind this process, before its threads start and inherit that; the CPUs on which it may run then."""
    if sys.platform != "linux":
        return ()
    os.sched_setaffinity(0, cpus)
    return tuple(sorted(os.sched_getaffinity(0)))


def _no_classes(engine: Engine) -> str:
    """Why there is no accuracy: the network is no classifier."""
    manifest = engine.artifact.manifest
    if len(manifest.outputs) == 1 and len(manifest.output.shape) == 2:
        return ""
    shapes = ", ".join(f"{spec.name!r} {spec.shape[1:]}" for spec in manifest.outputs)
    return f"accuracy is a classifier's, which answers with one number for each class; {manifest.name} has {shapes}"


def _foreign(evaluation: EvaluationSet, engine: Engine) -> str:
    info, manifest = evaluation.info, engine.artifact.manifest
    same_classes = bool(_no_classes(engine)) or len(info.classes) == len(manifest.classes)
    if info.preprocessing == manifest.preprocessing and same_classes:
        return ""
    return (
        f"the evaluation set {info.name!r} has {info.preprocessing} and {len(info.classes)} classes, "
        f"{manifest.name} needs {manifest.preprocessing} and {len(manifest.classes) or manifest.output.shape[1:]}"
    )


def draw_noise(evaluation: EvaluationSet, batch_size: int, seed: int, shape: tuple[int, ...]) -> tuple[Batch, ...]:
    """Full batches of normally distributed values, for a file whose pictures we do not have."""
    del evaluation
    generator = np.random.default_rng(seed)
    pictures = [generator.standard_normal((batch_size, *shape[1:]), np.float32) for _ in range(INPUT_BATCHES)]
    return tuple((images, np.zeros(batch_size, np.int64)) for images in pictures)


def draw_inputs(evaluation: EvaluationSet, batch_size: int, seed: int, shape: tuple[int, ...]) -> tuple[Batch, ...]:
    """Random full batches of real pictures: zeros or noise would change the sparsity of the activations."""
    del shape
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


def sample(bench: Bench, request: Sample) -> Sampled | Unavailable:
    """Sample one metric: on the drawn inputs, or, if it is due once per artifact, on the whole evaluation set."""
    metric = load_metric(request.metric)
    reason = metric.unavailable(bench.engine) or (bench.unfit if metric.scope == "artifact" else "")
    if reason:
        return Unavailable(reason)
    batches: Iterable[Batch] = bench.inputs
    if isinstance(metric, AnswerMetric):
        answers = whole_set(bench)
        if metric.against == "dense":
            answers = Answers(answers.scores, np.asarray(request.reference, np.int64))
        return Sampled(samples=[metric.score(answers)])
    if request.calls:
        inputs = itertools.cycle(bench.inputs)
        if request.settle:
            # the artifact that ran before has emptied the caches, and a thread pool may have gone to sleep
            metric.sample(bench.engine, itertools.islice(inputs, request.settle))
        batches = itertools.islice(inputs, request.calls)
    return Sampled(samples=metric.sample(bench.engine, batches))


def whole_set(bench: Bench) -> Answers:
    """The answers to the whole evaluation set, run once for all metrics of them."""
    if bench.answers is None:
        bench.answers = collect(bench.engine, bench.evaluation.batches(bench.batch_size))
    return bench.answers


def predict(bench: Bench) -> Predicted | Unavailable:
    """The class of every picture of the evaluation set."""
    if bench.unfit:
        return Unavailable(bench.unfit)
    return Predicted(tuple(whole_set(bench).classes.tolist()))


def answer_arrivals(bench: Bench, request: Serve) -> Answered:
    """Run one trial of the server scenario with the pictures of the first batch."""
    latencies_ms, seconds, dropped = serve(bench.engine, bench.inputs[0][0], request)
    return Answered(tuple(round(value, 4) for value in latencies_ms), seconds, dropped)


def idle(request: Idle) -> Idled:
    """Time the harness itself."""
    pin(request.cpus[:1])
    samples_us, loop_us = idle_calls(request.calls, request.rounds)
    return Idled(tuple(samples_us), tuple(loop_us))


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


def answer(bench: Bench | None, request: Request, folder: Path) -> tuple[Bench | None, Answer]:
    """Fulfil one request; every exception becomes a ``Failed`` that says what happened."""
    try:
        if isinstance(request, Load):
            return open_bench(request, folder)
        if isinstance(request, Idle):
            return bench, idle(request)
        assert bench is not None, "the first request must be load"
        return bench, _answer(bench, request)
    except UserError as error:
        return bench, Failed(reason=str(error))
    except Exception as error:  # an engine raises whatever its package raises; the bench reports it and goes on
        traceback.print_exc()
        return bench, Failed(reason=f"{type(error).__name__}: {error}")


def _answer(bench: Bench, request: Warm | Sample | Infer | Predict | Serve | Profile) -> Answer:
    if isinstance(request, Warm):
        return warm(bench, request)
    if isinstance(request, Infer):
        return infer(bench, request)
    if isinstance(request, Predict):
        return predict(bench)
    if isinstance(request, Serve):
        return answer_arrivals(bench, request)
    if isinstance(request, Profile):
        return profile(bench, request)
    return sample(bench, request)


def main() -> None:
    """Serve requests until stdin closes."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the bench, which then ends its workers
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)  # else a killed bench leaves stopped workers behind
    bench: Bench | None = None
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin.buffer:
            request: Request = msgspec.json.decode(line, type=Request)
            bench, reply = answer(bench, request, Path(folder))
            answers.write(msgspec.json.encode(reply) + b"\n")
            answers.flush()
        if bench is not None:
            bench.engine.close()


if __name__ == "__main__":
    main()
