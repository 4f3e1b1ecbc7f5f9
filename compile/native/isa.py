"""Instruction sets the generator writes for: lanes of a vector, registers, compiler flags, CPU flags to demand.

Half precision needs a processor that computes in it: with AVX-512 FP16 (Intel from Sapphire Rapids on), or ARM v8.2
with its option. One that merely converts (AVX2) would gain nothing. Nor would bfloat16: a sum of two products takes as
long as two multiply-adds of float32 (LOG.md).
"""

from __future__ import annotations

import platform
from pathlib import Path

import msgspec
import numpy as np

from runtime.errors import UserError
from runtime.machine import cpu_flags


class Isa(msgspec.Struct, frozen=True):
    """One instruction set. ``cpu_flags`` are the kernel's names for what the code needs when it is loaded.

    ``machine`` is the processor's name as ``uname -m`` gives it; empty means that of the machine that compiles.
    ``lanes`` count numbers of ``dtype``, in which everything is computed.
    """

    name: str
    machine: str
    lanes: int
    registers: int
    compiler_flags: tuple[str, ...]
    cpu_flags: tuple[str, ...]
    dtype: str = "float32"

    @property
    def item(self) -> int:
        """Bytes of a number."""
        return np.dtype(self.dtype).itemsize

    @property
    def foreign(self) -> bool:
        """Whether this machine can compile for it but not run it."""
        return self.machine not in ("", platform.machine())

    @property
    def runnable(self) -> bool:
        """Whether this machine can run it."""
        return not self.foreign and set(self.cpu_flags) <= cpu_flags()


_V3 = ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe")
ISAS: dict[str, Isa] = {
    isa.name: isa
    for isa in (
        Isa(
            "avx512",
            "x86_64",
            16,
            32,
            ("-march=x86-64-v4", "-mprefer-vector-width=512"),
            (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
        ),
        Isa("avx2", "x86_64", 8, 16, ("-march=x86-64-v3",), _V3),
        Isa("aarch64", "aarch64", 4, 32, ("-march=armv8-a",), ("asimd",)),
        # whatever the compiler's default target has; vectors of 4 floats exist on every 64-bit machine
        Isa("portable", "", 4, 16, (), ()),
    )
}


HALVES: dict[str, Isa] = {
    isa.name: isa
    for isa in (
        Isa(
            "avx512",
            "x86_64",
            32,
            32,
            ("-march=x86-64-v4", "-mavx512fp16", "-mprefer-vector-width=512"),
            (*ISAS["avx512"].cpu_flags, "avx512_fp16"),
            "float16",
        ),
        Isa("aarch64", "aarch64", 8, 32, ("-march=armv8.2-a+fp16",), ("asimd", "asimdhp", "fphp"), "float16"),
    )
}
"""The instruction sets that compute in half precision, by the same names."""


def isa_for(name: str, dtype: str = "float32") -> Isa:
    """The instruction set by name; ``native`` is the widest one that this machine runs.

    Raises:
        UserError: there is no such instruction set, or it does not compute in ``dtype``.
    """
    known = HALVES if dtype == "float16" else ISAS
    if name != "native" and name not in ISAS:
        raise UserError(f"unknown instruction set {name!r}; choose one of native, {', '.join(ISAS)}")
    found = next((isa for isa in known.values() if isa.runnable), None) if name == "native" else known.get(name)
    if found is None:
        what = "this processor" if name == "native" else name
        raise UserError(
            f"{what} does not compute in {dtype}, which needs AVX-512 FP16 (avx512_fp16) or ARM's (asimdhp); "
            f"leave --dtype out for float32"
        )
    return found


def cache_bytes(level: int, isa: Isa | None = None) -> int:
    """Bytes of a data cache per core: this machine's; a small common size for another, or if the system is silent."""
    common = {1: 32, 2: 512}[level] * 1024
    if isa is not None and isa.foreign:
        return common
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            kind = (index / "type").read_text(encoding="ascii").strip()
            found = int((index / "level").read_text(encoding="ascii"))
            size = (index / "size").read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            continue
        if found == level and kind != "Instruction" and size.endswith("K"):
            return int(size[:-1]) * 1024
    return common
