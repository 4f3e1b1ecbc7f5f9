"""How many multiply-adds this processor makes and how fast it reads, by number of threads; remembered per machine."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import msgspec

from bench.environment import describe_machine, now, usable_cpus
from bench.machine.peaks import SOURCE, bandwidth_of, line_of, measure_capacity, peak_of
from bench.measurement import Arithmetic, Operand, Place

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_FILE = "speed.json"
_LOAD_DECIMALS = 2


class Speed(msgspec.Struct, frozen=True):
    """What some threads do together: ``gflops`` by dtype and where an operand lies, ``gbytes_per_s`` by where from."""

    threads: int
    gflops: dict[str, float]
    gbytes_per_s: dict[str, float]


class Speeds(msgspec.Struct, frozen=True):
    """What was measured, when, and under which load. ``note`` says why there is nothing, where there is nothing."""

    rows: tuple[Speed, ...] = ()
    measured: str = ""
    load_average: float | None = None
    note: str = ""

    def of(self, threads: int) -> Speed | None:
        """The row of a number of threads."""
        return next((row for row in self.rows if row.threads == threads), None)


def thread_counts(cpus: int) -> tuple[int, ...]:
    """One, doubled until all CPUs are used, and all of them."""
    counts = [1]
    while counts[-1] * 2 < cpus:
        counts.append(counts[-1] * 2)
    return tuple(sorted({*counts, max(cpus, 1)}))


def measure(report: Callable[[str, float], None] = lambda _text, _done: None) -> Speeds:
    """Measure with every number of threads, some 2 s each, and remember the result."""
    return _measure(thread_counts(len(usable_cpus())), report)


def known_or_measured(threads: int) -> Speeds:
    """What is remembered of this machine, if that has a row for ``threads``; else what is measured now."""
    known = read()
    if known.of(threads) is not None or threads > len(usable_cpus()):
        return known
    return _measure((threads,), lambda _text, _done: None)


def _measure(counts: Sequence[int], report: Callable[[str, float], None]) -> Speeds:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    rows = []
    for done, threads in enumerate(counts):
        report(f"measuring peak and bandwidth, threads {threads}", done / len(counts))
        found = measure_capacity([usable_cpus()[:threads]])
        if found.note:
            return Speeds(note=found.note)
        gflops = {
            line_of(operand, dtype): peak_of(found.peaks, operand, threads, dtype)
            for dtype in get_args(Arithmetic)
            for operand in get_args(Operand)
        }
        read_from = {place: bandwidth_of(found.bandwidths, place, threads) for place in get_args(Place)}
        rows.append(
            Speed(
                threads=threads,
                gflops={name: value for name, value in gflops.items() if value is not None},
                gbytes_per_s={name: value for name, value in read_from.items() if value is not None},
            )
        )
    report("measured", 1.0)
    older = [row for row in read().rows if row.threads not in counts]
    speeds = Speeds(tuple(rows), now(), None if load is None else round(load, _LOAD_DECIMALS))
    _write(msgspec.structs.replace(speeds, rows=(*older, *rows)))
    return speeds


def cache_file() -> Path:
    """``$XDG_CACHE_HOME/st3/speed.json``, by default under ``~/.cache``; deleting it loses nothing but seconds."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "st3" / _FILE


def read() -> Speeds:
    """What is remembered of this very processor and measuring program; nothing where the file is missing or damaged."""
    try:
        return msgspec.json.decode(cache_file().read_bytes(), type=dict[str, Speeds]).get(_key(), Speeds())
    except (OSError, msgspec.MsgspecError):
        return Speeds()


def _write(speeds: Speeds) -> None:
    """Remember. A cache that cannot be written is no reason to fail."""
    path = cache_file()
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(msgspec.json.encode({_key(): speeds}))
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()


def _key() -> str:
    machine = describe_machine()
    facts = (machine.cpu_model, machine.usable_cpus, machine.caches, machine.cpu_flags, SOURCE.read_bytes())
    return hashlib.sha256(repr(facts).encode()).hexdigest()
