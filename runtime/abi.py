"""The C ABI between a generated library and the native engine, and the header of its weight file."""

from __future__ import annotations

import ctypes
import struct

ABI_VERSION = 4
WEIGHT_MAGIC = b"ST3WGT01"
WEIGHT_HEADER = struct.Struct("<8sQQ")
"""What a weight file begins with: the magic, a number that ties it to its library, its length in bytes."""

LIBRARY_FILE = "network.so"  # this and the next two lie in payload/b<N> for each batch size N
WEIGHT_FILE = "weights.bin"
STEPS_FILE = "steps.json"

DONE = 0  # what a run returns; another status says that it is running already

_VOID_P, _I32, _U64, _CHAR_P = ctypes.c_void_p, ctypes.c_int32, ctypes.c_uint64, ctypes.c_char_p

Signatures = dict[str, tuple[object, list[object]]]

_FIRST: Signatures = {
    "st3_abi_version": (_I32, []),
    "st3_open": (_VOID_P, [_VOID_P, _U64, _I32, _CHAR_P, _U64]),
    "st3_run": (_I32, [_VOID_P, _VOID_P, _VOID_P]),
    "st3_close": (None, [_VOID_P]),
}
_PROFILE: Signatures = {
    "st3_profile": (_I32, [_VOID_P, _VOID_P, _VOID_P, _VOID_P]),
    "st3_step_count": (_I32, []),
}
_LENGTHS: Signatures = {"st3_input_floats": (_U64, []), "st3_output_floats": (_U64, [])}
_OUTPUTS: Signatures = {"st3_output_count": (_I32, []), "st3_output_floats": (_U64, [_I32])}

SIGNATURES: dict[int, Signatures] = {
    1: _FIRST,
    2: _FIRST | _PROFILE,
    3: _FIRST | _PROFILE | _LENGTHS,
    ABI_VERSION: _FIRST | _PROFILE | _LENGTHS | _OUTPUTS,
}
"""Result and argument types of each function, by the version that exports it: 2 times steps, 3 says how many numbers a
batch has, 4 has several outputs: what 1 to 3 call the output is there a list of pointers, one for each.
``compile/native/kernels/model.h`` defines them."""

LISTS_OUTPUTS = 4  # the first version that does


def batch_folder(batch_size: int) -> str:
    """The folder below ``payload`` that holds the network compiled for a batch size."""
    return f"b{batch_size}"
