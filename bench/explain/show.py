"""An explanation on the terminal: one layer in lines, all layers in a table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.table import Table

from bench.report import numbers

if TYPE_CHECKING:
    from bench.explain.explanation import Answer, Explanation


def one_layer(answer: Answer, found: Explanation) -> Table:
    """A line per fact, then what would help."""
    layer = found.layer
    table = Table(title=f"{layer.name} of {answer.artifact}", title_justify="left", box=None, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    shape = "x".join(map(str, layer.weight_shape))
    table.add_row("layer", f"{layer.op}, weight {shape}, batch {answer.batch_size}, {numbers.threads(answer.threads)}")
    table.add_row(
        "zeros",
        f"{layer.pattern}, density {layer.density:.4f}: {layer.nonzeros:,} of {math.prod(layer.weight_shape):,}",
    )
    table.add_row("format", layer.format)
    table.add_row("why", layer.reason or "the backend gives no reason")
    macs = (layer.macs_dense, layer.macs_nonzero, found.macs_usable)
    table.add_row("MACs per picture", "{} dense, {} non-zero, {} executed".format(*map(numbers.millions, macs)))
    if found.bound is not None:
        for name, text in _bound_rows(found):
            table.add_row(name, text)
    if found.measured_us is not None:
        table.add_row("measured", _measured(found))
    if layer.dense_us is not None:
        table.add_row("dense kernel", f"{layer.dense_us:.2f} us when it was compiled")
    for index, text in enumerate(found.advice):
        table.add_row("" if index else "advice", text)
    return table


def all_layers(answer: Answer) -> Table:
    """A line per layer, with the first advice in a few words."""
    table = Table(box=None, pad_edge=False, padding=(0, 2), collapse_padding=True)
    for name in ("layer", "weight"):
        table.add_column(name, no_wrap=True)
    for name in ("density", "bound us", "us", "of time"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("format", no_wrap=True)
    table.add_column("advice", overflow="fold")
    for found in answer.layers:
        layer = found.layer
        table.add_row(
            layer.name,
            "x".join(map(str, layer.weight_shape)),
            f"{layer.density:.4f}",
            numbers.NONE if found.bound is None else f"{found.bound.us:.1f}",
            _cell(found),
            numbers.percent(found.share),
            layer.format,
            found.advice[0].partition(": ")[0],
        )
    return table


def _bound_rows(found: Explanation) -> list[tuple[str, str]]:
    bound = found.bound
    assert bound is not None
    what = f"reading from {bound.place}" if bound.waits_for_memory else "multiplying"
    return [
        ("intensity", f"{bound.intensity:.1f} operations a byte, {bound.bytes:,} bytes at least"),
        (
            "roofline bound",
            f"{bound.us:.1f} us, by {what} (multiplying {bound.compute_us:.1f}, reading {bound.memory_us:.1f} us)",
        ),
    ]


def _measured(found: Explanation) -> str:
    assert found.measured_us is not None
    parts = [f"{found.measured_us:.1f} us"]
    if found.bound is not None and not found.shares_step_with:
        parts.append(f"{found.measured_us / found.bound.us:.2f} times the bound")
    if found.gflops is not None:
        parts.append(f"{numbers.gflops(found.gflops)} useful GFLOP/s")
    if found.share is not None:
        parts.append(f"{numbers.percent(found.share)} of the network's time")
    if found.shares_step_with:
        parts.append(f"together with {', '.join(found.shares_step_with)}, in one step")
    return ", ".join(parts)


def _cell(found: Explanation) -> str:
    if found.measured_us is None:
        return numbers.NONE
    return f"{found.measured_us:.1f}{'*' if found.shares_step_with else ''}"
