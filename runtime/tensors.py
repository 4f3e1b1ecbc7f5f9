"""Arrays and tensors of other libraries as numpy arrays of the same memory, by DLPack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


_Given = TypeVar("_Given")


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


def chosen(out: Mapping[str, _Given] | None, names: Sequence[str]) -> Mapping[str, _Given]:
    """What ``out`` gives for some of the outputs of an artifact; a ``UserError`` where it names another, or none."""
    if out is None:
        return {}
    if not out or not set(out) <= set(names):
        one = f"one output named {names[0]!r}"
        raise UserError(
            f"this artifact has {one if len(names) == 1 else f'the outputs {list(names)}'}, got {sorted(map(str, out))}"
        )
    return out


def output_array(
    value: object, name: str, shape: Sequence[int], taken: Mapping[str, NDArray[Any]]
) -> NDArray[np.float32]:
    """What an answer of ``shape`` is written into: ``value``'s own memory, which must be fit for it.

    Args:
        value: what the caller gives.
        name: of the output.
        shape: of the answer.
        taken: memory that it must not touch, by what it is.

    Raises:
        UserError: another shape or type, not contiguous, not writable, or memory that is taken.
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
    for what, other in taken.items():
        if np.may_share_memory(array, other):
            raise UserError(f"output {name!r} overlaps {what}; give memory of its own")
    return array


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
