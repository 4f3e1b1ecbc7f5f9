"""``measurements.jsonl``: the records of one session, one per line. ``bench.measurement_file`` writes and reads them.

The first line is the ``session``; then come ``artifact`` and ``measurement`` records, ``refusal`` records for what
could not be opened, and last an ``end``, which a killed session lacks. The other records are there where what they say
was measured. While a session runs, its timings are ``round`` records, one line per round, so that a killed bench has
lost no finished round; whoever reads them gets measurements. The file holds all that a report needs.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from bench.environment import Environment, Gpu
from runtime.artifact import LayerEntry, Lineage, Target

Operand: TypeAlias = Literal["registers", "L1", "L2"]
Arithmetic: TypeAlias = Literal["float32", "float16"]
Place: TypeAlias = Literal["L1", "L2", "DRAM"]
Scenario: TypeAlias = Literal["single-stream", "offline", "server"]

SCHEMA_VERSION = 4
"""2: the batch sizes of an artifact's target. 3: GPUs, and what is proven of an artifact's layers on them.

4: launches and rounds, scenarios, bandwidths, the harness, the machine around each launch, what could not be measured.
"""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The protocol's numbers. A turn is one artifact's part of a round; times are in seconds.

    ``rounds`` of ``turn_s`` each give every artifact about ``rounds * turn_s`` seconds in each condition. They are
    shared among ``launches``: in each, every artifact has a new process (1: sessions before schema 4). The server is
    asked either for the highest rate whose p99 is within ``server_bound_ms``, or for ``server_rate_per_s``.
    """

    rounds: int = 50
    launches: int = 1
    turn_s: float = 0.04
    calls_per_turn_max: int = 250
    settle_fraction: float = 0.1
    warm_window_s: float = 0.05
    warm_limit_s: float = 1.0
    warm_tolerance: float = 0.05
    seed: int = 0
    scenarios: tuple[Scenario, ...] = ("single-stream",)
    server_bound_ms: float | None = None
    server_rate_per_s: float | None = None


class Session(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="session"):
    """The first record: what was asked for, and on what it ran."""

    schema_version: int
    environment: Environment
    settings: Settings
    threads: tuple[int, ...]
    evaluation: str
    pictures: int


class ArtifactRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="artifact"):
    """One artifact, as its manifest describes it. MACs are per picture.

    ``digest`` is the manifest's; where another engine than the artifact's own runs it, ``ENGINE:`` stands before it.
    A ``yardstick`` is an ONNX
    file that the user put beside the artifacts; its MACs are 0 where the file does not tell them.
    """

    digest: str
    name: str
    backend: str
    engine: str
    target: Target
    lineage: Lineage
    layers: tuple[LayerEntry, ...]
    size_bytes: int
    macs_dense: int
    macs_nonzero: int
    yardstick: bool = False


class Measurement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="measurement"):
    """Raw samples of one metric: one inner list per round, or one list for a metric that is sampled once.

    ``control`` is 0 for the artifact itself, and the number of the worker that ran the same artifact as another one (an
    A/A pair); before schema 4 it was ``true`` for the only one. ``launches`` has the number of the process of each
    round; empty where all came from one. ``stable`` says whether the warm-up came to rest in all of them. ``failure``
    says why the samples stop early or are missing.
    """

    artifact: str
    metric: str
    unit: str
    batch_size: int
    threads: int
    samples: tuple[tuple[float, ...], ...]
    cpus: tuple[int, ...] = ()
    control: int | bool = 0
    stable: bool = True
    failure: str | None = None
    launches: tuple[int, ...] = ()

    @property
    def by_launch(self) -> tuple[tuple[tuple[float, ...], ...], ...]:
        """The rounds of each process, in order."""
        numbers = self.launches or (0,) * len(self.samples)
        rounds: dict[int, list[tuple[float, ...]]] = {}
        for number, turn in zip(numbers, self.samples, strict=True):
            rounds.setdefault(number, []).append(turn)
        return tuple(tuple(turns) for turns in rounds.values())


class Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one worker gave in one round; the fields are those of ``Measurement``."""

    artifact: str
    metric: str
    unit: str
    samples: tuple[float, ...] = ()
    control: int = 0
    stable: bool = True
    failure: str | None = None


class Round(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="round"):
    """One finished round of a condition, written at once; a finished file has measurements instead."""

    batch_size: int
    threads: int
    launch: int
    cpus: tuple[int, ...]
    turns: tuple[Turn, ...]


class Served(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="served"):
    """One trial of the server scenario: single pictures that arrive at random, and how long each waited for its answer.

    Gaps between arrivals are exponential with mean ``1 / rate_per_s``; pictures that wait together share a batch.

    Attributes:
        rate_per_s: pictures offered a second.
        bound_ms: what p99 was to stay within; ``None`` where the rate was given without one.
        latencies_ms: from arrival to answer, of every picture that was answered.
        achieved_per_s: pictures answered a second.
        dropped: pictures that were not answered when the trial was given up, for the queue had grown too long.
    """

    artifact: str
    batch_size: int
    threads: int
    rate_per_s: float
    bound_ms: float | None
    latencies_ms: tuple[float, ...]
    achieved_per_s: float
    dropped: int


class Harness(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="harness"):
    """What the bench itself costs: an engine that does nothing, on the way that every other goes, runtime and all.

    ``samples_us`` is what is taken for the latency of a call; ``loop_us`` the whole of a call, timing included.
    """

    samples_us: tuple[float, ...]
    loop_us: tuple[float, ...]


class Surroundings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="surroundings"):
    """The machine while one launch of a condition was measured; ``None`` or empty where it does not say.

    Attributes:
        load_average: over 1, 5 and 15 minutes, when the launch ended.
        others_cpus: mean number of CPUs that processes other than the bench's kept busy.
        steal_cpus: mean number of CPUs that a hypervisor took away.
        gpus: every GPU after each round, as NVML tells; else once at the end.
    """

    batch_size: int
    threads: int
    launch: int
    seconds: float
    load_average: tuple[float, ...]
    others_cpus: float | None
    steal_cpus: float | None
    gpus: tuple[Gpu, ...] = ()


class Missing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="missing"):
    """A metric or another figure that this machine cannot give; ``artifact`` is empty where it concerns all."""

    metric: str
    reason: str
    artifact: str = ""


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="step"):
    """One step of an artifact's network; steps come in the order in which they run. Samples are one per run.

    ``layer`` is empty where a step has no weights; ``macs`` are those with a non-zero weight, of the whole batch.
    """

    artifact: str
    batch_size: int
    threads: int
    name: str
    layer: str
    kernel: str
    macs: int
    samples_ms: tuple[float, ...]


class Peak(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="peak"):
    """Multiply-adds that this processor makes, in GFLOP/s of all threads; ``operand`` is where one of theirs lies.

    Those in float16 are half precision's own, sums included, and there where the processor has them.
    """

    operand: Operand
    threads: int
    samples: tuple[float, ...]
    dtype: Arithmetic = "float32"


class Bandwidth(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="bandwidth"):
    """Reading, in GB/s of all threads together; ``place`` is the level of memory that holds what is read."""

    place: Place
    threads: int
    samples: tuple[float, ...]


class Refusal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="refusal"):
    """A folder that was given and holds no usable artifact."""

    name: str
    reason: str


class End(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="end"):
    """The last record. ``complete`` is false for a session that was interrupted; ``gpus`` are as they were then."""

    ended: str
    load_average: tuple[float, ...]
    complete: bool
    gpus: tuple[Gpu, ...] = ()


Record = (
    Session
    | ArtifactRecord
    | Measurement
    | Round
    | Served
    | Harness
    | Surroundings
    | Missing
    | Step
    | Peak
    | Bandwidth
    | Refusal
    | End
)


class Measurements(msgspec.Struct, frozen=True):
    """A whole file."""

    session: Session
    artifacts: tuple[ArtifactRecord, ...]
    measurements: tuple[Measurement, ...]
    refusals: tuple[Refusal, ...]
    end: End | None
    steps: tuple[Step, ...] = ()
    peaks: tuple[Peak, ...] = ()
    bandwidths: tuple[Bandwidth, ...] = ()
    served: tuple[Served, ...] = ()
    harness: tuple[Harness, ...] = ()
    surroundings: tuple[Surroundings, ...] = ()
    missing: tuple[Missing, ...] = ()


def is_dense(record: ArtifactRecord) -> bool:
    """Whether an artifact is what speed-ups are given against: dense weights, or a file whose zeros it computes."""
    if record.yardstick:
        return False  # another network, for all that is known
    if record.lineage.method == "onnx":
        return all(layer.format == "dense" for layer in record.layers)
    return record.lineage.method == "dense"
