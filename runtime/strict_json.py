"""Reads JSON that a stranger may have written: typed, every key once, and nothing without a bound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

LIMIT_BYTES = 4 << 20
"""Of a description; the longest that is written, of a network with some hundred layers, takes a tenth of it."""

T = TypeVar("T")


def decode(raw: bytes, kind: type[T]) -> T:
    """``raw`` as a ``kind`` that msgspec knows.

    Raises:
        ValueError: not such a document, too long, nested too deeply, or with a key twice in one object (of which
            different readers take different ones). The message is one line.
    """
    import json  # slow to import, and not needed before

    if len(raw) > LIMIT_BYTES:
        raise ValueError(f"{len(raw):,} bytes, at most {LIMIT_BYTES:,} are read")
    try:
        found = msgspec.json.decode(raw, type=kind)
        json.loads(raw.decode("utf-8"), object_pairs_hook=_once)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error
    except (RecursionError, MemoryError) as error:
        raise ValueError("it is nested too deeply") from error
    return found


def read(path: Path, kind: type[T]) -> T:
    """``decode`` of a file that is not longer than the bound; raises ``OSError`` and ``ValueError``."""
    return decode(read_bounded(path), kind)


def read_bounded(path: Path) -> bytes:
    """At most one byte more than the bound, which ``decode`` then refuses."""
    with path.open("rb") as stream:
        return stream.read(LIMIT_BYTES + 1)


def _once(pairs: list[tuple[str, Any]]) -> None:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:80]!r} stands there twice")
