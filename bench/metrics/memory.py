"""Memory: the largest resident set of the process that runs the artifact, in bytes."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import TYPE_CHECKING, final

from bench.metric import Metric

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.metric import Batch
    from runtime.engine import Engine


@final
class Memory(Metric):
    """The whole process: Python, NumPy, the engine's package, the weights, the buffers and four input batches."""

    unit = "bytes"
    better = "lower"
    scope = "condition"

    def sample(self, engine: Engine, batches: Iterable[Batch]) -> list[float]:  # noqa: ARG002 - the process is measured
        """See ``Metric.sample``: one sample, the peak since the process began."""
        return [float(peak_bytes())]


def peak_bytes() -> int:
    """``VmHWM`` of this process; ``ru_maxrss``, which starts from the parent's peak, only where that is missing."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        status = ""
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


METRIC = Memory()
