"""One run at a time in a folder: a lock that a killed process cannot leave behind."""

from __future__ import annotations

import fcntl
import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import UserError

_descriptors: set[int] = set()
"""Of the locks that this process holds."""


@contextmanager
def locked(checkpoint: Path) -> Iterator[None]:
    """Hold the lock file ``.<name>.lock`` beside a checkpoint; the system frees it when the process ends.

    Forked children, such as the workers of a data loader, do not hold it: they outlive a killed trainer by seconds.

    Raises:
        UserError: another process holds it.
    """
    path = checkpoint.with_name(f".{checkpoint.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    _drop_in_children()
    descriptor = _take(path, checkpoint)
    _descriptors.add(descriptor)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        _descriptors.remove(descriptor)
        os.close(descriptor)


def _take(path: Path, checkpoint: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 20).decode() or "unknown"
            os.close(descriptor)
            raise UserError(
                f"another run (process {holder}) is training {checkpoint} at this moment; wait for it, or give "
                f"another --out"
            ) from error
        # its last owner may have removed the file between the two calls, and a lock on that one would stop nobody
        if path.exists() and os.fstat(descriptor).st_ino == path.stat().st_ino:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            return descriptor
        os.close(descriptor)


@functools.cache
def _drop_in_children() -> None:
    """Once per process, since what is registered at the fork stays registered."""
    os.register_at_fork(after_in_child=_drop)


def _drop() -> None:
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()
