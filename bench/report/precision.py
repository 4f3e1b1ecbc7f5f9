"""What must be said where rows compute in different precisions, or a yardstick is faster than all of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.naming import engine_label
from bench.report import numbers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from bench.report.analysis import Row

_BITS = {"float64": 64, "float32": 32, "tf32": 19, "bfloat16": 16, "float16": 16, "int8": 8}


def caveat_of(rows: Sequence[Row]) -> str:
    """The sentences for the rows of one condition; empty where there is nothing to say."""
    return " ".join((*_across(rows), *_faster_yardstick(rows)))


def bits_of(dtype: str) -> int:
    """How many a number has; of ``int8+bfloat16`` those of what most is computed in."""
    return _BITS.get(dtype.partition("+")[0], 32)


def _across(rows: Sequence[Row]) -> Iterator[str]:
    """Between the base of the speed-ups and the others."""
    base = next((row for row in rows if row.base), None)
    if base is None:
        return
    bits = bits_of(base.dtype)
    more = _dtypes(row for row in rows if bits_of(row.dtype) > bits)
    less = _dtypes(row for row in rows if bits_of(row.dtype) < bits)
    if more:
        yield f"The base, {_described(base)}, is of a lower precision than the rows in {more}."
    if less:
        yield (
            f"Rows in {less} are of a lower precision than the base, {_described(base)}: "
            f"part of their speed-up is the precision's."
        )


def _faster_yardstick(rows: Sequence[Row]) -> Iterator[str]:
    """A yardstick is the base of nothing, so that no speed-up shows by itself that it is faster."""
    sparse = min((row for row in rows if row.method != "dense" and not row.yardstick), key=_latency, default=None)
    fastest = min((row for row in rows if row.yardstick), key=_latency, default=None)
    if sparse is None or fastest is None:
        return
    ratio = _latency(sparse) / _latency(fastest)
    if ratio > 1 + (sparse.resolution or 0):
        yield (
            f"The yardstick {fastest.checkpoint} with {_named(fastest)} is {numbers.times(ratio)} as fast as the "
            f"fastest sparse artifact, {sparse.checkpoint} with {_named(sparse)}."
        )


def _dtypes(rows: Iterable[Row]) -> str:
    *others, last = dict.fromkeys(row.dtype for row in rows) or [""]
    return f"{', '.join(others)} and {last}" if others else last


def _described(row: Row) -> str:
    return f"{row.checkpoint} with {row.backend} in {row.dtype}"


def _named(row: Row) -> str:
    return engine_label(row.backend, row.dtype)


def _latency(row: Row) -> float:
    return row.latency_ms_p50
