"""The C ABI between a generated library and the native engine, and the header of its weight file."""

from __future__ import annotations

import ctypes

ABI_VERSION = 2
WEIGHT_MAGIC = b"ST3WGT01"

LIBRARY_FILE = "network.so"  # this and the next two lie in payload/b<N> for each batch size N
WEIGHT_FILE = "weights.bin"
STEPS_FILE = "steps.json"

DONE = 0  # what a run returns; another status says that it is running already

_VOID_P, _I32, _U64, _CHAR_P = ctypes.c_void_p, ctypes.c_int32, ctypes.c_uint64, ctypes.c_char_p

SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "st3_abi_version": (_I32, []),
    "st3_open": (_VOID_P, [_VOID_P, _U64, _I32, _CHAR_P, _U64]),
    "st3_run": (_I32, [_VOID_P, _VOID_P, _VOID_P]),
    "st3_profile": (_I32, [_VOID_P, _VOID_P, _VOID_P, _VOID_P]),
    "st3_step_count": (_I32, []),
    "st3_close": (None, [_VOID_P]),
}
"""Result and argument types of each exported function; ``compile/native/kernels/model.h`` defines them."""


def batch_folder(batch_size: int) -> str:
    """The folder below ``payload`` that holds the network compiled for a batch size."""
    return f"b{batch_size}"
