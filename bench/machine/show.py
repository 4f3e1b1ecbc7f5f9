"""The processor and its speed as tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from bench.machine.processor import Cache, Processor
    from bench.machine.speed import Speeds

UNKNOWN = "unknown"


def processor_table(found: Processor) -> Table:
    """One line per fact."""
    machine = found.machine
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    where = ", in a virtual machine" if machine.virtualised else ""
    table.add_row("processor", f"{machine.cpu_model}, {machine.architecture}{where}")
    table.add_row("instruction sets", " ".join(found.vector_sets) or UNKNOWN)
    table.add_row("below float32", _below_float32(found))
    table.add_row("topology", _cores(found))
    for cache in found.caches:
        table.add_row(_cache_name(cache), _cache(cache))
    if not found.caches:
        table.add_row("caches", UNKNOWN)
    table.add_row("memory", _size(machine.memory_bytes or None))
    table.add_row("frequency governor", machine.governor)
    load = f"{found.load_average[0]:.2f}" if found.load_average else UNKNOWN
    busy = "; others are using this machine, so that figures measured now come out too low" if found.is_busy else ""
    table.add_row("load", load + busy)
    return table


def speed_table(found: Speeds) -> Table | str:
    """A line per number of threads, or why there is none."""
    if not found.rows:
        return found.note or "the processor's peak and bandwidth were not measured"
    table = Table(box=None, pad_edge=False, padding=(0, 2), title_justify="left", title="Measured")
    table.add_column("threads", justify="right")
    for operand in found.rows[0].gflops:
        table.add_column(f"GFLOP/s, {operand}", justify="right", min_width=len("registers"))
    for place in found.rows[0].gbytes_per_s:
        table.add_column(f"GB/s, read {place}", justify="right", min_width=len("read L1"))
    for row in found.rows:
        values = (*row.gflops.values(), *row.gbytes_per_s.values())
        table.add_row(str(row.threads), *(f"{value:.1f}" for value in values))
    return table


def _below_float32(found: Processor) -> str:
    if not found.machine.cpu_flags:
        return UNKNOWN
    if not found.precisions:
        return "no instructions for bfloat16, float16 or int8: dense engines gain little from them here"
    named = ", ".join(f"{name} ({' '.join(flags)})" for name, flags in found.precisions.items())
    asked = [f"openvino-{name}:FILE.onnx" for name in ("bfloat16", "float16") if name in found.precisions]
    asked += ["openvino:INT8.onnx of python -m bench.quantize"] if "int8" in found.precisions else []
    return (
        f"{named}: dense networks may be faster in these than in float32; measure sparse ones against them, too: "
        f"st3 bench --baseline {', '.join(asked)}{_own_half(found)}"
    )


def _own_half(found: Processor) -> str:
    """What the native engine has for it: vectors of half precision, not matrices."""
    able = {"avx512_fp16", "asimdhp"} & set(found.precisions.get("float16", ()))
    return "; native computes sparse networks in float16: st3 compile --dtype float16" if able else ""


def _cores(found: Processor) -> str:
    machine = found.machine
    counted = {
        "cores": found.cores,
        "threads a core": machine.threads_per_core,
        "sockets": found.sockets,
        "NUMA nodes": found.numa_nodes,
    }
    parts = [f"{what} {count or UNKNOWN}" for what, count in counted.items()]
    return ", ".join([*parts, f"{machine.usable_cpus} of {machine.logical_cpus} logical CPUs usable"])


def _cache_name(cache: Cache) -> str:
    kind = {"Data": " data", "Instruction": " instructions"}.get(cache.kind or "", "")
    return f"cache L{cache.level if cache.level is not None else '?'}{kind}"


def _cache(cache: Cache) -> str:
    shared = (
        ("one for each logical CPU" if cache.shared_by == 1 else f"one for {cache.shared_by} logical CPUs")
        if cache.shared_by
        else f"sharing {UNKNOWN}"
    )
    return f"{_size(cache.size_bytes)}, lines of {cache.line_bytes or UNKNOWN} bytes, {shared}"


def _size(size_bytes: int | None) -> str:
    if size_bytes is None:
        return UNKNOWN
    for unit, factor in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.4g} {unit}"
    return f"{size_bytes} bytes"
