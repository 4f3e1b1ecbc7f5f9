"""The machine around a launch: who else kept the processor busy, and what the GPUs' clocks and power were."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, final

from bench.environment import gpus, load_average
from bench.measure.gpu_look import look
from bench.measurement import Surroundings

if TYPE_CHECKING:
    from bench.environment import Gpu

_STAT = Path("/proc/stat")
_IDLE, _IOWAIT, _STEAL = 3, 4, 7  # fields of the line "cpu", see proc(5); guests are counted in user and nice already


@final
class Watch:
    """Begins when it is made, before the launch's processes, and ends with ``surroundings``, when they are gone."""

    def __init__(self, gpus: bool) -> None:
        self._begin = monotonic()
        self._cpu = _cpu_seconds()
        self._own = own_seconds()
        self._on_gpu = gpus
        self._gpus: list[Gpu] = []

    def look(self) -> None:
        """After a round: the GPUs' clocks and power, where NVML tells."""
        if self._on_gpu:
            self._gpus += look()

    def surroundings(self, batch_size: int, threads: int, launch: int) -> Surroundings:
        """What happened since the beginning."""
        seconds = monotonic() - self._begin
        now = _cpu_seconds()
        others = steal = None
        if now is not None and self._cpu is not None:
            busy, stolen = now[0] - self._cpu[0], now[1] - self._cpu[1]
            others = round(max(0.0, busy - (own_seconds() - self._own)) / seconds, 3)
            steal = round(stolen / seconds, 3)
        seen = tuple(self._gpus) or (gpus() if self._on_gpu else ())
        return Surroundings(batch_size, threads, launch, round(seconds, 3), load_average(), others, steal, seen)


def own_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, kinds))


def parse_stat(text: str, ticks: int) -> tuple[float, float] | None:
    """Busy and stolen CPU seconds since the system started, from ``/proc/stat``; ``None`` where it has no such line."""
    for line in text.splitlines():
        name, *fields = line.split()
        if name == "cpu" and len(fields) > _STEAL:
            counts = [int(field) for field in fields[: _STEAL + 1]]
            idle = counts[_IDLE] + counts[_IOWAIT]
            return (sum(counts) - idle - counts[_STEAL]) / ticks, counts[_STEAL] / ticks
    return None


def _cpu_seconds() -> tuple[float, float] | None:
    try:
        return parse_stat(_STAT.read_text(encoding="ascii", errors="replace"), os.sysconf("SC_CLK_TCK"))
    except OSError:
        return None
