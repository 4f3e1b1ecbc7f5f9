"""What the processor is: instruction sets, cores, threads of a core, caches. What the system hides is ``None``."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from bench.environment import Machine, count_cpus, describe_machine, read_text, usable_cpus
from bench.machine.precision import precisions_of

SYSFS = Path("/sys/devices/system")
# what decides how fast sparse or dense numbers can be multiplied, narrowest first
_VECTOR_FLAGS = (
    "sse2", "sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl",
    "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16",
    "asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2", "sme",
)  # fmt: skip


class Cache(msgspec.Struct, frozen=True):
    """One cache as a core sees it. ``shared_by`` counts the logical CPUs that share it."""

    level: int | None
    kind: str | None
    size_bytes: int | None
    line_bytes: int | None
    shared_by: int | None


class Processor(msgspec.Struct, frozen=True):
    """The processor; see ``bench.environment.Machine`` for what every measurement file says of it, too.

    ``precisions`` are those below float32 that it has instructions for, with the flags that say so.
    """

    machine: Machine
    vector_sets: tuple[str, ...]
    precisions: dict[str, tuple[str, ...]]
    caches: tuple[Cache, ...]
    cores: int | None
    sockets: int | None
    numa_nodes: int | None
    load_average: tuple[float, ...]

    @property
    def is_busy(self) -> bool:
        """Whether others use so much of it that what is measured now comes out too low."""
        return bool(self.load_average) and self.load_average[0] > _BUSY * max(self.machine.usable_cpus, 1)


_BUSY = 0.5


def examine(sysfs: Path = SYSFS) -> Processor:
    """Look now; ``sysfs`` is where the kernel describes the system."""
    machine = describe_machine()
    flags = set(machine.cpu_flags)
    topology = [sysfs / f"cpu/cpu{number}/topology" for number in range(os.cpu_count() or 0)]
    return Processor(
        machine=machine,
        vector_sets=tuple(flag for flag in _VECTOR_FLAGS if flag in flags),
        precisions=precisions_of(flags),
        caches=caches(sysfs / f"cpu/cpu{min(usable_cpus(), default=0)}/cache"),
        cores=_distinct(topology, ("physical_package_id", "core_id")),
        sockets=_distinct(topology, ("physical_package_id",)),
        numa_nodes=len(list((sysfs / "node").glob("node[0-9]*"))) or None,
        load_average=tuple(os.getloadavg()) if hasattr(os, "getloadavg") else (),
    )


def caches(folder: Path) -> tuple[Cache, ...]:
    """The caches below ``cpu<N>/cache``, nearest first; what a file does not say is ``None``."""
    found = []
    for index in sorted(folder.glob("index*")):
        shared = count_cpus(read_text(index / "shared_cpu_list"))
        cache = Cache(
            level=_integer(read_text(index / "level")),
            kind=read_text(index / "type") or None,
            size_bytes=_bytes(read_text(index / "size")),
            line_bytes=_integer(read_text(index / "coherency_line_size")),
            shared_by=shared or None,
        )
        found.append(cache)
    return tuple(found)


def _distinct(folders: list[Path], names: tuple[str, ...]) -> int | None:
    """How many different values the CPUs have; ``None`` where any of them is not known."""
    found = {tuple(read_text(folder / name) for name in names) for folder in folders}
    # a virtual machine may hide the topology: -1, or nothing at all
    return len(found) if found and all(text not in ("", "-1") for values in found for text in values) else None


def _integer(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def _bytes(text: str) -> int | None:
    """``48K``, ``2M`` or a plain number."""
    factor = {"K": 1024, "M": 1024**2, "G": 1024**3}.get(text[-1:], 1)
    number = _integer(text.rstrip("KMG"))
    return None if number is None else number * factor
