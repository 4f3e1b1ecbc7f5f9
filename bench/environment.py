"""What a session ran on: machine, load, versions and commit. No host name, no user name, no path."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from runtime.machine import cpu_flags

PACKAGES = ("numpy", "onnxruntime", "torch", "triton", "msgspec", "st3")
_CPU = Path("/sys/devices/system/cpu/cpu0")
_GIT_TIMEOUT_S = 10
_SMI_TIMEOUT_S = 30
_SMI_FIGURES = 7


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The processor as this process may use it. Unreadable facts are empty, 0 or ``unknown``, never guessed."""

    cpu_model: str
    architecture: str
    logical_cpus: int
    usable_cpus: int
    threads_per_core: int
    caches: dict[str, str]
    memory_bytes: int
    governor: str
    virtualised: bool
    cpu_flags: tuple[str, ...]


class Gpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An NVIDIA GPU as its driver describes it at one moment; a figure that it withholds is 0."""

    name: str
    driver: str
    memory_mib: float
    sm_mhz: float
    sm_max_mhz: float
    memory_mhz: float
    power_w: float
    power_limit_w: float
    temperature_c: float


class Environment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything about a session that is not a sample. ``load_average`` is over 1, 5 and 15 minutes, at the start.

    ``gpus`` are described at the start too, idle.
    """

    started: str
    machine: Machine
    operating_system: str
    python: str
    packages: dict[str, str]
    commit: str
    load_average: tuple[float, ...]
    gpus: tuple[Gpu, ...] = ()


def describe() -> Environment:
    """Look at this machine now."""
    return Environment(
        started=now(),
        machine=describe_machine(),
        operating_system=_operating_system(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        packages=_versions(),
        commit=_commit(),
        load_average=load_average(),
        gpus=gpus(),
    )


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def load_average() -> tuple[float, ...]:
    """Mean number of runnable processes over 1, 5 and 15 minutes; empty where the system does not say."""
    try:
        return tuple(round(value, 2) for value in os.getloadavg())
    except OSError:
        return ()


def gpus() -> tuple[Gpu, ...]:
    """Every NVIDIA GPU of this machine; none where its driver's ``nvidia-smi`` is missing or fails."""
    fields = (
        "name,driver_version,memory.total,clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit,temperature.gpu"
    )
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SMI_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return parse_gpus(done.stdout) if done.returncode == 0 else ()


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """Read the lines that ``gpus`` asks ``nvidia-smi`` for; one of another form is left out."""
    found = []
    for line in text.splitlines():
        name, *rest = (part.strip() for part in line.split(","))
        if len(rest) == _SMI_FIGURES + 1:
            found.append(Gpu(name, rest[0], *map(_figure, rest[1:])))
    return tuple(found)


def _figure(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def usable_cpus() -> tuple[int, ...]:
    """Numbers of the CPUs on which this process may run."""
    return tuple(sorted(os.sched_getaffinity(0))) if sys.platform == "linux" else tuple(range(os.cpu_count() or 1))


def describe_machine() -> Machine:
    """The processor and the memory, without a look at packages, commit and GPUs."""
    info = _first_fields(Path("/proc/cpuinfo"))
    memory = _first_fields(Path("/proc/meminfo")).get("MemTotal", "0 kB")
    flags = cpu_flags()
    return Machine(
        cpu_model=info.get("model name", platform.processor() or "unknown"),
        architecture=platform.machine(),
        logical_cpus=os.cpu_count() or 0,
        usable_cpus=len(usable_cpus()),
        threads_per_core=count_cpus(read_text(_CPU / "topology/thread_siblings_list")),
        caches=_caches(),
        memory_bytes=int(memory.split()[0]) * 1024,
        governor=read_text(_CPU / "cpufreq/scaling_governor") or "unknown",
        virtualised="hypervisor" in flags,
        cpu_flags=tuple(sorted(flags)),
    )


def _caches() -> dict[str, str]:
    caches = {}
    for index in sorted(_CPU.glob("cache/index*")):
        level, kind, size = (read_text(index / name) for name in ("level", "type", "size"))
        if level and size:
            suffix = {"Data": "d", "Instruction": "i"}.get(kind, "")
            caches[f"L{level}{suffix}"] = size
    return caches


def _operating_system() -> str:
    release = {}
    for line in read_text(Path("/etc/os-release")).splitlines():
        key, _, value = line.partition("=")
        release[key] = value.strip('"')
    name = release.get("PRETTY_NAME", platform.system())
    return f"{name}, {platform.system()} {platform.release()}"


def _versions() -> dict[str, str]:
    # the metadata is read and nothing imported: importing torch would cost seconds and memory
    distributions = (next(iter(importlib.metadata.distributions(name=name)), None) for name in PACKAGES)
    return {name: found.version for name, found in zip(PACKAGES, distributions, strict=True) if found}


def _commit() -> str:
    """The commit of this very code, ``-dirty`` if it was changed, ``unknown`` if it does not lie in a repository."""
    here = Path(__file__).resolve()
    if not _git(here.parent, "ls-files", "--", here.name):
        return "unknown"
    commit = _git(here.parent, "rev-parse", "HEAD") or "unknown"
    changed = _git(here.parent, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if changed else commit


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _first_fields(path: Path) -> dict[str, str]:
    """``key: value`` lines; of a repeated key the first."""
    fields: dict[str, str] = {}
    for line in read_text(path).splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    return fields


def count_cpus(cpu_list: str) -> int:
    """The number of CPUs in a kernel list such as ``0-1,4``; 0 where it is empty or no such list."""
    total = 0
    for part in filter(None, cpu_list.split(",")):
        first, _, last = part.partition("-")
        try:
            total += int(last or first) - int(first) + 1
        except ValueError:
            return 0
    return total


def read_text(path: Path) -> str:
    """The content of a small file of the system's; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
