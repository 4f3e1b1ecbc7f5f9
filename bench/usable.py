"""Hardware-usable MACs: the multiply-accumulates that a layer's format really executes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.naming import NATIVE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runtime.artifact import LayerEntry

EXACT = ("offset_stream", "pair_stream", "block_stream")
"""Formats of the CPU engine that execute the non-zeros alone; ``block_stream`` is taken for full blocks only."""
DENSE = ("dense", "dense_channels")


def macs_usable(layers: Iterable[LayerEntry], engine: str, batch_size: int) -> int | None:
    """Per picture; ``None`` where a layer's format does not tell.

    A GPU's artifact says it itself. Engines other than native compute every zero where it does not.
    """
    found = [layer_macs_usable(layer, engine, batch_size) for layer in layers]
    known = [macs for macs in found if macs is not None]
    return sum(known) if len(known) == len(found) else None


def layer_macs_usable(layer: LayerEntry, engine: str, batch_size: int) -> int | None:
    """See ``macs_usable``."""
    form = format_at(layer.format, batch_size)
    if layer.macs_usable is not None:
        return layer.macs_usable
    if engine != NATIVE or form in DENSE:
        return layer.macs_dense
    return layer.macs_nonzero if form in EXACT else None


def format_at(text: str, batch_size: int) -> str:
    """``dense`` of ``batch 1: offset_stream, batch 32: dense`` at 32; a layer of one format has its name alone."""
    by_size = dict(part.split(": ") for part in text.removeprefix("batch ").split(", batch ") if ": " in part)
    return by_size.get(str(batch_size), text)
