"""Reads ``.npy`` files that a stranger may have made: plain numbers only, and exactly as many as the file has."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MAX_HEADER = 1 << 14
"""Bytes within which a header must end."""

_KINDS = "fiub"  # floats, integers, booleans: what no code has to be run for


def read_npy(path: Path, mapped: bool = False) -> NDArray[Any]:
    """The array of a file, read, or mapped and read-only.

    numpy's own ``load`` also opens archives, which may unpack to any size, and asks for the memory that a header
    promises before it looks for the numbers.

    Raises:
        OSError: it cannot be read, or is no plain file.
        ValueError: it is no ``.npy`` file, holds objects, is of the other byte order, or is not as long as it says.
    """
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    with path.open("rb") as stream:
        head = stream.read(MAX_HEADER)
        start, shape, fortran, dtype = header(head)
        size = stream.seek(0, io.SEEK_END)
        needed = start + math.prod(shape) * dtype.itemsize
        if size != needed:
            raise ValueError(f"it has {size} bytes, and its header needs {needed}")
        if mapped and size > start:  # nothing cannot be mapped
            content: NDArray[np.uint8] = np.memmap(stream, np.uint8, "r")
        else:
            stream.seek(0)
            content = np.frombuffer(bytearray(stream.read()), np.uint8)
    return _view(content, start, shape, fortran, dtype)


def parse_npy(content: NDArray[np.uint8]) -> NDArray[Any]:
    """The array that the bytes of a ``.npy`` file are, in the same memory; see ``read_npy``."""
    start, shape, fortran, dtype = header(content[:MAX_HEADER].tobytes())
    needed = start + math.prod(shape) * dtype.itemsize
    if len(content) != needed:
        raise ValueError(f"it has {len(content)} bytes, and its header needs {needed}")
    return _view(content, start, shape, fortran, dtype)


def _view(
    content: NDArray[np.uint8], start: int, shape: tuple[int, ...], fortran: bool, dtype: np.dtype[Any]
) -> NDArray[Any]:
    numbers: NDArray[Any] = content[start:].view(dtype)
    return numbers.reshape(shape[::-1]).T if fortran else numbers.reshape(shape)


def header(head: bytes) -> tuple[int, tuple[int, ...], bool, np.dtype[Any]]:
    """Where the numbers begin, their shape, whether the first index is the fastest, and their type.

    Args:
        head: the file's first bytes.

    Raises:
        ValueError: see ``read_npy``.
    """
    stream = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ValueError(f"version {version} of the format is none that numbers need")
    except Exception as error:  # numpy parses the header as Python and raises whatever that does
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"its header cannot be read: {first[:200]}") from error
    if dtype.kind not in _KINDS or dtype.names is not None or dtype.subdtype is not None:
        raise ValueError(f"it holds {str(dtype)[:80]}, and only plain numbers are read")
    if not dtype.isnative:
        raise ValueError(f"it holds {dtype.str}, which is the other byte order than this machine's")
    if any(type(length) is not int or length < 0 for length in shape):
        raise ValueError(f"its shape is {shape}")
    return stream.tell(), shape, fortran, dtype
