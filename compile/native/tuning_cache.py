"""Remembers what the tuner measured, per machine, compiler and shape of a layer, between compilations."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np

from compile.graph import Conv
from compile.native.isa import Isa, cache_bytes
from compile.native.kernel_table import KERNELS
from compile.native.plan import Plan
from compile.native.schedule import Schedule
from compile.native.steps import Compute
from compile.native.toolchain import KERNELS as KERNEL_FOLDER
from compile.native.toolchain import compiler

_DENSITY_STEPS = 16  # layers whose numbers of non-zeros differ by less than this fraction of a factor e share a choice
_FILE = "tuning.json"


def cache_file() -> Path:
    """``$XDG_CACHE_HOME/st3/tuning.json``, by default under ``~/.cache``; deleting it loses nothing but time."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "st3" / _FILE


class Known(msgspec.Struct, frozen=True):
    """Schedules by the key of a layer, and whether the joins of a network pay by ``join_key``.

    A schedule's ``reason`` is what was measured alone: layers of about one density share it.
    """

    schedules: dict[str, Schedule] = {}
    joins: dict[str, bool] = {}


def read() -> Known:
    """All that is remembered; nothing where the file is missing or damaged."""
    try:
        return msgspec.json.decode(cache_file().read_bytes(), type=Known)
    except (OSError, msgspec.MsgspecError):
        return Known()


def write(found: Known) -> None:
    """Add to what is remembered. A cache that cannot be written is no reason to fail."""
    path = cache_file()
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        old = read()
        part.write_bytes(msgspec.json.encode(Known(old.schedules | found.schedules, old.joins | found.joins)))
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()


def join_key(keys: Iterable[str]) -> str:
    """Digest of a network's layers."""
    return hashlib.sha256("".join(keys).encode()).hexdigest()


def key(plan: Plan, step: Compute, isa: Isa, threads: int) -> str:
    """Digest of everything that decides how fast a schedule runs, but not of the weights themselves."""
    conv = step.node
    assert isinstance(conv, Conv)
    nonzeros = int(np.count_nonzero(conv.weight))
    facts = (
        _machine(),
        (isa.name, isa.dtype),
        threads,
        plan.images,
        (conv.weight.shape, conv.groups, conv.activation, conv.factor is not None),
        round(math.log(max(nonzeros, 1)) * _DENSITY_STEPS),
        [name for name, kernel in KERNELS.items() if kernel.reject(conv) is None],
        conv.output in plan.paired(),
        repr(step.window),
        [repr(plan.tensors[name]) for name in (*step.inputs, conv.output)],
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()


@functools.cache
def _machine() -> tuple[str, ...]:
    """Processor, caches, compiler, and the kernels' own text."""
    model = platform.processor() or platform.machine()
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        names = [line for line in facts.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    version = subprocess.run([compiler(), "--version"], capture_output=True, text=True, check=False).stdout
    digest = hashlib.sha256()
    for path in sorted(KERNEL_FOLDER.glob("*.h")):
        digest.update(path.read_bytes())
    return model, str(cache_bytes(1)), str(cache_bytes(2)), version.partition("\n")[0], digest.hexdigest()
