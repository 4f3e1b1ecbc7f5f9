"""A quick look at the GPUs through NVML: clocks, power and temperature while they work."""

from __future__ import annotations

import functools
from typing import Any

from bench.environment import Gpu


def look() -> tuple[Gpu, ...]:
    """Every GPU now; none without nvidia-ml-py or a driver. A look takes some tens of microseconds."""
    nvml = _nvml()
    return () if nvml is None else tuple(_look(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))


@functools.cache
def _nvml() -> Any:
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # not installed, no driver, or one too old: nvidia-smi is asked instead
        return None
    return pynvml


def _look(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def ask(function: str, *more: Any) -> Any:
        try:
            return getattr(nvml, function)(handle, *more)
        except nvml.NVMLError:
            return 0

    memory = ask("nvmlDeviceGetMemoryInfo")
    return Gpu(
        name=_text(nvml.nvmlDeviceGetName(handle)),
        driver=_text(nvml.nvmlSystemGetDriverVersion()),
        memory_mib=round(getattr(memory, "total", 0) / 2**20),
        sm_mhz=float(ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM)),
        sm_max_mhz=float(ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM)),
        memory_mhz=float(ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM)),
        power_w=ask("nvmlDeviceGetPowerUsage") / 1000,
        power_limit_w=ask("nvmlDeviceGetEnforcedPowerLimit") / 1000,
        temperature_c=float(ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU)),
    )


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
