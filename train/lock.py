"""One run at a time in a folder: a lock that a killed process cannot leave behind."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import UserError


@contextmanager
def locked(checkpoint: Path) -> Iterator[None]:
    """Hold the lock file ``.<name>.lock`` beside a checkpoint; the system frees it when the process ends.

    Raises:
        UserError: another process holds it.
    """
    path = checkpoint.with_name(f".{checkpoint.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _take(path, checkpoint)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
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
