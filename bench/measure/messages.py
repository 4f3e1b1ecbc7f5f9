"""What the bench and its worker processes say to each other: one JSON document per line."""

from __future__ import annotations

import msgspec

from runtime.steps import StepInfo


class Load(msgspec.Struct, frozen=True, tag="load"):
    """Pin to ``cpus``, load the artifact with ``threads`` threads, draw the latency inputs from the evaluation set.

    ``engine`` is who runs it, the artifact's own engine if it is not given. ``artifact`` may be an ONNX file too, which
    is computed in ``dtype``.
    """

    artifact: str
    evaluation: str
    batch_size: int
    threads: int
    cpus: tuple[int, ...]
    seed: int
    engine: str | None = None
    dtype: str = "float32"


class Warm(msgspec.Struct, frozen=True, tag="warm"):
    """Call the engine until two windows agree within ``tolerance`` or ``limit_s`` is over."""

    window_s: float
    limit_s: float
    tolerance: float


class Sample(msgspec.Struct, frozen=True, tag="sample"):
    """Sample a metric: on ``calls`` batches after ``settle`` unrecorded calls, or on the evaluation set if 0.

    ``reference`` are the classes that the dense network gives the evaluation set, where the metric is held against it.
    """

    metric: str
    calls: int = 0
    settle: int = 0
    reference: tuple[int, ...] = ()


class Infer(msgspec.Struct, frozen=True, tag="infer"):
    """Run the first ``pictures`` of the evaluation set."""

    pictures: int


class Predict(msgspec.Struct, frozen=True, tag="predict"):
    """Give the class of every picture of the evaluation set."""


class Serve(msgspec.Struct, frozen=True, tag="serve"):
    """Answer ``pictures`` that arrive at random, ``rate_per_s`` on average; give up when one waits ``patience_s``."""

    rate_per_s: float
    pictures: int
    patience_s: float
    seed: int


class Idle(msgspec.Struct, frozen=True, tag="idle"):
    """Time ``calls`` of an engine that does nothing, in each of ``rounds``, on the first of ``cpus``."""

    calls: int
    rounds: int
    cpus: tuple[int, ...]


class Profile(msgspec.Struct, frozen=True, tag="profile"):
    """Run ``calls`` batches and time every step of the network."""

    calls: int


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """The answer to ``Load``: the CPUs that the process may really use (empty where the system cannot pin)."""

    cpus: tuple[int, ...]


class Warmed(msgspec.Struct, frozen=True, tag="warmed"):
    """The answer to ``Warm``: the last window's median, the number of calls, and whether the windows agreed."""

    latency_ms: float
    calls: int
    stable: bool


class Sampled(msgspec.Struct, frozen=True, tag="sampled"):
    """The answer to ``Sample``."""

    samples: list[float]


class Unavailable(msgspec.Struct, frozen=True, tag="unavailable"):
    """The answer to ``Sample`` of a metric that this machine cannot give."""

    reason: str


class Predicted(msgspec.Struct, frozen=True, tag="predicted"):
    """The answer to ``Predict``: -1 where an output was a NaN."""

    classes: tuple[int, ...]


class Answered(msgspec.Struct, frozen=True, tag="answered"):
    """The answer to ``Serve``: milliseconds from arrival to answer, the span of them all, and how many were left."""

    latencies_ms: tuple[float, ...]
    seconds: float
    dropped: int


class Idled(msgspec.Struct, frozen=True, tag="idled"):
    """The answer to ``Idle``: what was taken for a call's latency, and the whole of a call, per round."""

    samples_us: tuple[float, ...]
    loop_us: tuple[float, ...]


class Inferred(msgspec.Struct, frozen=True, tag="inferred"):
    """The answer to ``Infer``: one row of outputs per picture."""

    outputs: list[list[float]]


class Profiled(msgspec.Struct, frozen=True, tag="profiled"):
    """The answer to ``Profile``: the steps in order, and for each its milliseconds in every call."""

    steps: list[StepInfo]
    samples_ms: list[list[float]]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The answer to any request that could not be fulfilled."""

    reason: str


Request = Load | Warm | Sample | Infer | Predict | Serve | Idle | Profile
Answer = Loaded | Warmed | Sampled | Unavailable | Predicted | Answered | Idled | Inferred | Profiled | Failed
