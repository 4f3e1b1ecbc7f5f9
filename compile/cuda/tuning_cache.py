"""Remembers what the tuner measured on a GPU, between compilations."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from compile.cuda.candidates import Offer
from compile.cuda.format import source_digest
from compile.cuda.problem import ConvProblem
from runtime.cuda import gpu

_FILE = "tuning-cuda.json"


class Timing(msgspec.Struct, frozen=True):
    """The median time of a candidate and how uncertain it is, in microseconds."""

    us: float
    noise_us: float


Known = dict[str, dict[str, Timing]]
"""By the key of a layer the timings of its candidates, by their descriptions."""


def cache_file() -> Path:
    """``$XDG_CACHE_HOME/st3/tuning-cuda.json``, by default under ``~/.cache``; deleting it loses nothing but time."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "st3" / _FILE


def read() -> Known:
    """All that is remembered; nothing where the file is missing or damaged."""
    try:
        return msgspec.json.decode(cache_file().read_bytes(), type=Known)
    except (OSError, msgspec.MsgspecError):
        return {}


def write(found: Known) -> None:
    """Add to what is remembered. A cache that cannot be written is no reason to fail."""
    path = cache_file()
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(msgspec.json.encode(read() | found))
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()


def key(problem: ConvProblem, offered: Offer) -> str:
    """Digest of all that decides how fast a layer's candidates are on this machine.

    The GPU and the versions of what drives it, the problem, the multiply-adds that the weight leaves to each format,
    the candidates, and the text of their kernels.
    """
    names = [candidate.describe() for found in offered.candidates.values() for candidate in found]
    facts = (
        gpu.name(),
        sorted(gpu.versions().items()),
        offered.fingerprint(problem),
        names,
        _digests(offered.candidates),
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _digests(names: Iterable[str]) -> list[str]:
    return [source_digest(name) for name in sorted(names)]
