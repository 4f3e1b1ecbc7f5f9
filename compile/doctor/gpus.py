"""The NVIDIA GPUs of this machine as their driver and torch describe them; no GPU is no error."""

from __future__ import annotations

import subprocess

import msgspec

_FIELDS = "name,compute_cap,driver_version,memory.total"
_TIMEOUT_S = 30
_SPARSE_SINCE = 8.0
UNKNOWN = "unknown"


class Gpu(msgspec.Struct, frozen=True):
    """One GPU. ``None`` and ``unknown`` where the driver does not say.

    Attributes:
        compute_capability: ``9.0``.
        two_of_four: whether its tensor cores multiply 2:4 weights: from compute capability 8.0 (Ampere) on.
        torch_uses_it: whether the installed torch can run on it.
    """

    name: str
    compute_capability: str
    driver: str
    memory_mib: float | None
    two_of_four: bool | None
    torch_uses_it: bool


def examine() -> tuple[Gpu, ...]:
    """All GPUs, in the driver's order."""
    command = ["nvidia-smi", f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return parse(done.stdout, _usable_by_torch()) if done.returncode == 0 else ()


def parse(text: str, torch_uses_it: bool) -> tuple[Gpu, ...]:
    """Read the lines of ``nvidia-smi``; fields that it lacks are unknown, an empty line is no GPU."""
    found = []
    for line in filter(str.strip, text.splitlines()):
        fields = [part.strip() for part in line.split(",")]
        name, capability, driver, memory = (*fields, *[""] * 4)[:4]
        number = _number(capability)
        gpu = Gpu(
            name=name or UNKNOWN,
            compute_capability=UNKNOWN if number is None else capability,
            driver=driver or UNKNOWN,
            memory_mib=_number(memory),
            two_of_four=None if number is None else number >= _SPARSE_SINCE,
            torch_uses_it=torch_uses_it,
        )
        found.append(gpu)
    return tuple(found)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _usable_by_torch() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()
