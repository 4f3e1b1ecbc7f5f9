"""Arrays and tensors of other libraries as numpy arrays of the same memory, by DLPack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class DLPack(Protocol):
    """What numpy, torch, CuPy, JAX and others have in common: memory with a shape that is handed over uncopied."""

    def __dlpack__(self) -> Any:
        """A capsule; see the DLPack standard."""

    def __dlpack_device__(self) -> tuple[Any, int]:
        """Kind of device and its number."""


def host_array(value: object, name: str) -> NDArray[Any]:
    """``value`` as a numpy array of the same memory.

    Raises:
        UserError: it is no array, or lies in a device's memory, or needs a gradient.
    """
    if isinstance(value, np.ndarray):
        return value
    if not hasattr(value, "__dlpack__"):
        raise UserError(
            f"input {name!r} must be an array (numpy, or any that has __dlpack__), got {type(value).__name__}"
        )
    try:
        return np.from_dlpack(value)
    except Exception as error:  # each library refuses in its own way
        raise UserError(
            f"input {name!r} cannot be read as an array of this machine's memory ({_first_line(error)}); give a "
            f"detached tensor of the CPU, or call run_on_device where the artifact is for a GPU"
        ) from error


def output_array(value: object, name: str, shape: Sequence[int], given: NDArray[Any]) -> NDArray[np.float32]:
    """What an answer of ``shape`` is written into: ``value``'s own memory, which must be fit for it.

    Raises:
        UserError: another shape or type, not contiguous, not writable, or memory of the input.
    """
    array = host_array(value, name)
    if not isinstance(value, np.ndarray) and not array.flags.writeable:
        # numpy before 2.1 calls every DLPack tensor read-only; a view that the library makes by itself is not
        view = np.asarray(value)
        array = view if view.ctypes.data == array.ctypes.data else array
    if array.shape != tuple(shape) or array.dtype != np.float32:
        raise UserError(
            f"output {name!r} must be float32 {tuple(shape)}, got {array.dtype} {array.shape}; give such an array"
        )
    if not (array.flags.c_contiguous and array.flags.aligned and array.flags.writeable):
        raise UserError(f"output {name!r} must be C-contiguous, aligned and writable; give a plain array")
    if np.may_share_memory(array, given):
        raise UserError(f"output {name!r} overlaps the input, which is still read; give memory of its own")
    return array


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
