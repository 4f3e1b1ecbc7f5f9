"""What is installed, the GPUs, and what sparsity is worth, as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from compile.doctor.expectation import Curve, Expectation
from compile.doctor.gpus import Gpu
from compile.doctor.software import Part

_NEVER = "never"
_COLUMNS = 6


def software_table(parts: Sequence[Part]) -> Table:
    """A line per part: there, there but unusable, or missing with the command that installs it."""
    table = _table("Installed")
    for heading in ("", "part", "found", "for"):
        table.add_column(heading, no_wrap=heading == "part", overflow="fold")
    for part in parts:
        state = "yes" if part.found and not part.problem else "no"
        words = [part.found, part.problem, f"install: {part.install}" if part.install else ""]
        table.add_row(state, part.name, "; ".join(filter(None, words)), part.purpose)
    return table


def gpu_table(gpus: Sequence[Gpu]) -> Table | str:
    """A line per GPU."""
    if not gpus:
        return "no NVIDIA GPU that its driver (nvidia-smi) knows of"
    table = _table("GPUs")
    for heading in ("name", "compute capability", "2:4 in hardware", "memory", "driver", "torch can use it"):
        table.add_column(heading)
    for gpu in gpus:
        memory = "unknown" if gpu.memory_mib is None else f"{gpu.memory_mib:.0f} MiB"
        sparse = "unknown" if gpu.two_of_four is None else _yes(gpu.two_of_four)
        table.add_row(gpu.name, gpu.compute_capability, sparse, memory, gpu.driver, _yes(gpu.torch_uses_it))
    return table


def expectation_tables(found: Expectation) -> list[Table | str]:
    """Per layer a table with a line per format; then in words from where on zeros pay; then what is missing."""
    parts: list[Table | str] = [f"What zeros are worth on {found.device} ({found.conditions})"]
    for layer in dict.fromkeys(one.layer for one in found.dense):
        parts.append(_layer_table(found, layer))
    return [*parts, *_verdicts(found), *found.notes]


def _layer_table(found: Expectation, layer: str) -> Table:
    dense = {one.engine: one.us for one in found.dense if one.layer == layer}
    curves = [one for one in found.curves if one.layer == layer]
    sparsities = _shown(curves)
    fastest = min(dense, key=dense.__getitem__)
    told = ", ".join(f"{engine} {us:.1f} us" for engine, us in dense.items())
    table = _table(f"{layer}; dense: {told}\nfrom which sparsity on it beats dense, and times as fast as {fastest}")
    table.padding = (0, 1, 0, 0)
    for heading in ("format", "zeros", *(f"beats {engine}" for engine in dense)):
        table.add_column(heading, no_wrap=heading in ("format", "zeros"), min_width=len(heading.split()[-1]))
    for sparsity in sparsities:
        table.add_column(f"{sparsity:g}", justify="right", no_wrap=True)
    for one in curves:
        times = {point.sparsity: f"{dense[fastest] / point.us:.2f}x" for point in one.points}
        beats = [break_even_text(one, engine) for engine in dense]
        table.add_row(one.form, one.weights, *beats, *(times.get(sparsity, "") for sparsity in sparsities))
    return table


def _shown(curves: Sequence[Curve]) -> list[float]:
    """The sparsities that have a column: few enough for the width of a window; the JSON document has all."""
    return sorted({point.sparsity for one in curves for point in one.points})[-_COLUMNS:]


def break_even_text(curve: Curve, engine: str) -> str:
    """``0.33``; ``<0.25`` where the lowest sparsity that was measured was faster already; ``never``."""
    value = curve.break_even[engine]
    return _NEVER if value is None else _sparsity_text(value, curve)


def _from(value: float, curve: Curve) -> str:
    if len(curve.points) == 1:
        return f"at sparsity {value:g}"
    return f"from sparsity {value:.2f} on" if value > curve.points[0].sparsity else f"already at sparsity {value:g}"


def _sparsity_text(value: float, curve: Curve) -> str:
    if value > curve.points[0].sparsity:
        return f"{value:.2f}"
    # 2:4 has one sparsity alone
    return f"{value:g}" if len(curve.points) == 1 else f"<{value:g}"


def _verdicts(found: Expectation) -> list[str]:
    """One sentence per layer and kind of zeros: from which sparsity on a format is faster than every dense engine."""
    lines = []
    for layer, weights in dict.fromkeys((one.layer, one.weights) for one in found.curves):
        own = [one for one in found.curves if (one.layer, one.weights) == (layer, weights)]
        paying = [(value, one) for one in own if (value := _against_all(one)) is not None]
        if not paying:
            lines.append(f"{layer}: {weights} zeros gain nothing at the sparsities that were measured")
            continue
        value, best = min(paying, key=lambda pair: (pair[0], pair[1].points[-1].us))
        lines.append(f"{layer}: {weights} zeros pay {_from(value, best)} ({best.form})")
    return lines


def _against_all(curve: Curve) -> float | None:
    """The sparsity from which on a format beats every dense engine; ``None`` where it does not."""
    values = [value for value in curve.break_even.values() if value is not None]
    return max(values) if len(values) == len(curve.break_even) else None


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2), collapse_padding=True)


def _yes(value: bool) -> str:
    return "yes" if value else "no"
