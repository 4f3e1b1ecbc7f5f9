"""Counters of energy: RAPL of an x86 processor's packages, NVML of a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

POWERCAP = Path("/sys/class/powercap")


class Meter(msgspec.Struct, frozen=True):
    """``read`` gives the joules of each counter since some moment; one begins at 0 again at its ``wraps_j``."""

    read: Callable[[], tuple[float, ...]]
    wraps_j: tuple[float, ...]

    def since(self, begin_j: tuple[float, ...]) -> float:
        """Joules of all counters since ``begin_j`` was read; each may have begun anew once."""
        spans = zip(begin_j, self.read(), self.wraps_j, strict=True)
        return sum(end - begin if end >= begin else end - begin + wraps for begin, end, wraps in spans)


def unreadable(device: str) -> str | None:
    """Why there is no meter for a device, in one line, or ``None``."""
    try:
        meter(device).read()
    except (OSError, ValueError, ImportError) as error:
        return str(error)
    return None


def meter(device: str) -> Meter:
    """The meter of ``cpu`` or of the first GPU; raises ``OSError`` or ``ImportError`` that says what is missing."""
    return _rapl(POWERCAP) if device == "cpu" else _nvml()


def _rapl(root: Path) -> Meter:
    """A counter per package (``intel-rapl:N``; AMD's has the same name)."""
    packages = [zone for zone in sorted(root.glob("intel-rapl:*")) if zone.name.count(":") == 1]
    if not packages:
        raise OSError(f"there is no RAPL counter under {root}: a virtual machine, or a processor or kernel without")
    try:
        wraps_j = tuple(int((zone / "max_energy_range_uj").read_text()) / 1e6 for zone in packages)
        counters = [zone / "energy_uj" for zone in packages]
        for counter in counters:
            counter.read_text()
    except PermissionError as error:
        raise PermissionError(
            f"{error.filename} may be read by root alone; `sudo chmod a+r {root}/intel-rapl:*/energy_uj` lets all read"
        ) from error
    return Meter(lambda: tuple(int(counter.read_text()) / 1e6 for counter in counters), wraps_j)


def _nvml() -> Meter:
    try:
        import pynvml
    except ImportError as error:
        raise ImportError("nvidia-ml-py is not installed: pip install nvidia-ml-py") from error
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError as error:
        raise OSError(f"the GPU has no counter of energy: {error}") from error
    return Meter(lambda: (pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3,), (float("inf"),))
