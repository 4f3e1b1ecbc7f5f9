"""Lines of measurement files that other stages and scripts write, as far as `bench/results` holds them.

The writers are ``scripts/bench_gpu.py``, ``scripts/bench_layers_gpu.py`` and ``bench.serve``; training's lines are in
``runtime.training_rows``. A field that they do not write, or one that is missing, is refused.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bench.environment import Environment
from bench.serve.fuzz import FuzzOutcome
from bench.serve.scenarios import Outcome
from bench.serve.soak import SoakOutcome


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What holds for every line: no field that is not known."""


class NetworkChoice(_Line, frozen=True, tag_field="kind", tag="choice"):
    """What the compiler chose for a whole network; ``us`` by version of it."""

    network: str
    batch: int
    gpu: str
    versions: dict[str, str]
    version: str
    note: str
    us: dict[str, float]


class NetworkFloor(_Line, frozen=True, tag_field="kind", tag="floor"):
    """The time of as many kernels that do nothing, and the sum of the layers' rooflines."""

    network: str
    batch: int
    gpu: str
    versions: dict[str, str]
    version: str
    kernels: int
    empty_us: float
    roofline_us: float


class NetworkTime(_Line, frozen=True, tag_field="kind", tag="time"):
    """Microseconds of one version of a network, one sample per round, warm and with an emptied cache."""

    network: str
    batch: int
    gpu: str
    versions: dict[str, str]
    version: str
    us: tuple[float, ...]
    us_cold: tuple[float, ...]


class LayerLine(_Line, frozen=True):
    """One layer of a network on a GPU: what it is to compute, what it became, and what bounds it."""

    network: str
    batch: int
    gpu: str
    versions: dict[str, str]
    weights: str
    layer: str
    problem: dict[str, Any]
    density: float
    format: str
    dense: str
    dense_us: float | None
    chosen_us: float | None
    macs: int
    macs_usable: int | None
    bytes: int
    roofline_us: float
    reason: str


class KernelLine(_Line, frozen=True):
    """One candidate for one layer, with its samples. Lines before 2026-11-27 lack ``time`` to ``problem``."""

    layer: str
    weights: str
    density: float
    format: str
    config: str
    error: float
    median_us: float
    samples_us: tuple[float, ...]
    gpu: str
    batch: int | None = None
    dtype: str | None = None
    time: float | None = None
    count: int | None = None
    problem: dict[str, Any] | None = None
    torch: str | None = None
    cuda: str | None = None
    cudnn: str | None = None
    driver: str | None = None

    @property
    def batch_size(self) -> int:
        """Pictures of a call."""
        return int(self.problem["batch"]) if self.problem else self.batch or 0

    @property
    def number_type(self) -> str:
        """``float16``."""
        return str(self.problem["dtype"]) if self.problem else self.dtype or ""


class LaunchesLine(_Line, frozen=True):
    """The 2:4 convolution alone on one layer: each launch that was tried, medians of graph replays."""

    kernel_version: int
    gpu: str
    dtype: str
    batch: int
    layer: str
    dense_conv_us: float
    dense_bias_relu_us: float
    launches: tuple[dict[str, float], ...]
    ablations_us: dict[str, Any]
    early_us: Any = None
    not_early_us: Any = None


class ServeSession(_Line, frozen=True, tag="session"):
    """The first line of ``python -m bench.serve``: where, and how hard."""

    environment: Environment
    plan: dict[str, Any]


class ServeLoad(Outcome, frozen=True, forbid_unknown_fields=True, tag="load"):
    """One scenario of load."""


class ServeFuzz(FuzzOutcome, frozen=True, forbid_unknown_fields=True, tag="fuzz"):
    """Malformed requests."""


class ServeSoak(SoakOutcome, frozen=True, forbid_unknown_fields=True, tag="soak"):
    """Mixed traffic for minutes."""
