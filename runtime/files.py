"""Files of a folder that a stranger may have made: plain files only, below it, of the bytes that were expected."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_BLOCK = 1 << 20
_ALIGN = 64  # of packed weights
_libraries: dict[str, ctypes.CDLL] = {}
_loading = threading.Lock()


class NotPlainFileError(OSError):
    """A name that is a symbolic link, or passes one, or is a folder, a pipe, a device; ``strerror`` says which."""


@contextlib.contextmanager
def opened(folder: Path, name: str) -> Iterator[int]:
    """A file descriptor of ``folder/name``, of which no part below ``folder`` is a symbolic link.

    Every part is opened from the one before, so that nobody can put another thing in its place meanwhile.

    Args:
        folder: may itself be reached through links.
        name: a relative POSIX path without ``..``.

    Raises:
        OSError: missing, or not to be read; ``NotPlainFileError`` where it is something else than a file.
    """
    *parents, last = name.split("/")
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parents:
            _refuse(at, part, folder / name, stat.S_ISDIR, "lies in no folder")
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = below
        _refuse(at, last, folder / name, stat.S_ISREG, "is no plain file")
        # a pipe that was put there just now would not let go of us
        handle = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    except OSError as error:
        if isinstance(error, NotPlainFileError):
            raise
        raise OSError(error.errno, error.strerror, str(folder / name)) from error
    finally:
        os.close(at)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):  # put there since it was looked at
            raise NotPlainFileError(errno.EINVAL, "is no plain file", str(folder / name))
        yield handle
    finally:
        os.close(handle)


def beginning(folder: Path, name: str, most: int) -> bytes:
    """At most so many bytes of a file; see ``opened``."""
    with opened(folder, name) as handle:
        left = min(most, os.fstat(handle).st_size)
        parts = []
        while left and (part := os.read(handle, left)):
            parts.append(part)
            left -= len(part)
    return b"".join(parts)


def read(folder: Path, name: str, size_bytes: int, sha256: str | None) -> NDArray[np.uint8]:
    """The bytes of a file in private memory that begins at a multiple of 64, compared with what was expected.

    Args:
        folder: see ``opened``.
        name: see ``opened``.
        size_bytes: its length.
        sha256: its digest; ``None`` compares none.

    Raises:
        OSError: see ``opened``.
        ValueError: another length or another digest.
    """
    with opened(folder, name) as handle:
        size = os.fstat(handle).st_size
        if size != size_bytes:
            raise ValueError(f"has {size} bytes, its manifest says {size_bytes}")
        room = np.empty(size + _ALIGN, np.uint8)
        start = -room.ctypes.data % _ALIGN
        content = room[start : start + size]
        filled = 0
        while filled < size and (count := os.readv(handle, [content.data[filled : filled + (_BLOCK << 6)]])):
            filled += count
    if filled != size or (sha256 is not None and hashlib.sha256(content.data).hexdigest() != sha256):
        raise ValueError("differs from its digest in the manifest")
    return content


def compare(folder: Path, name: str, size_bytes: int, sha256: str | None) -> None:
    """As ``read``, and nothing is kept."""
    with opened(folder, name) as handle:
        size = os.fstat(handle).st_size
        if size != size_bytes:
            raise ValueError(f"has {size} bytes, its manifest says {size_bytes}")
        if sha256 is None:
            return
        digest = hashlib.sha256()
        left = size  # a file that grows meanwhile would keep us for ever
        while left and (block := os.read(handle, min(left, _BLOCK))):
            digest.update(block)
            left -= len(block)
    if left or digest.hexdigest() != sha256:
        raise ValueError("differs from its digest in the manifest")


def what_instead(folder: Path, name: str, maker: str) -> str:
    """What is where a folder with the file ``name`` was looked for: nothing, or such folders one or two levels down."""
    if not folder.exists():
        return f"there is no such folder; `{maker}` makes one"
    if not folder.is_dir():
        return f"it is no folder; `{maker}` makes one"
    below = [path.parent for level in ("*", "*/*") for path in sorted(folder.glob(f"{level}/{name}"))]
    if below:
        return f"it has no {name}, but folders in it have; name one, for instance {below[0]}"
    return f"it has no {name}; `{maker}` makes one"


def load_library(content: NDArray[np.uint8], path: Path, private: bool) -> ctypes.CDLL:
    """The shared library that ``content`` is, whatever lies under its ``path`` by now.

    The bytes are copied into sealed anonymous memory, which nobody can change, and loaded from there. The same bytes
    are loaded once in a process. Their descriptor stays open: the loader takes two libraries of one name for one.

    Args:
        content: the library.
        path: where it came from.
        private: refuse where the system has no such memory or runs none of it; else ``path`` is loaded there.

    Raises:
        OSError: it is no library that can run here.
    """
    digest = hashlib.sha256(content.data).hexdigest()
    with _loading:
        if digest not in _libraries:
            try:
                _libraries[digest] = _from_memory(content, path)
            except (AttributeError, OSError) as error:
                if private:
                    raise OSError(str(error)) from error
                return ctypes.CDLL(str(path.resolve()))
        return _libraries[digest]


def _from_memory(content: NDArray[np.uint8], path: Path) -> ctypes.CDLL:
    handle = os.memfd_create(path.name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        rest = content.data
        while rest:
            rest = rest[os.write(handle, rest) :]
        # from linux/fcntl.h: no more seals, no shrinking, no growing, no writing
        fcntl.fcntl(handle, 1033, 0x1 | 0x2 | 0x4 | 0x8)
        return ctypes.CDLL(f"/proc/self/fd/{handle}")
    except OSError as error:
        os.close(handle)
        raise OSError(str(error).replace(f"/proc/self/fd/{handle}", path.name)) from error


def _refuse(at: int, part: str, path: Path, wanted: object, complaint: str) -> None:
    mode = os.stat(part, dir_fd=at, follow_symlinks=False).st_mode
    if stat.S_ISLNK(mode):
        raise NotPlainFileError(errno.ELOOP, "is a symbolic link, which an artifact may not hold", str(path))
    assert callable(wanted)
    if not wanted(mode):
        raise NotPlainFileError(errno.EINVAL, complaint, str(path))
