"""What the bench and its worker processes say to each other: one JSON document per line."""

from __future__ import annotations

import msgspec

from runtime.steps import StepInfo


class Load(msgspec.Struct, frozen=True, tag="load"):
    """Pin to ``cpus``, load the artifact with ``threads`` threads, draw the latency inputs from the evaluation set.

    ``engine`` is who runs it, the artifact's own engine if it is not given.
    """

    artifact: str
    evaluation: str
    batch_size: int
    threads: int
    cpus: tuple[int, ...]
    seed: int
    engine: str | None = None


class Warm(msgspec.Struct, frozen=True, tag="warm"):
    """Call the engine until two windows agree within ``tolerance`` or ``limit_s`` is over."""

    window_s: float
    limit_s: float
    tolerance: float


class Sample(msgspec.Struct, frozen=True, tag="sample"):
    """Sample a metric: on ``calls`` batches after ``settle`` unrecorded calls, or on the evaluation set if 0."""

    metric: str
    calls: int = 0
    settle: int = 0


class Infer(msgspec.Struct, frozen=True, tag="infer"):
    """Run the first ``pictures`` of the evaluation set."""

    pictures: int


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


Request = Load | Warm | Sample | Infer | Profile
Answer = Loaded | Warmed | Sampled | Inferred | Profiled | Failed
