"""Which precisions below float32 a processor has instructions for, by the flags that its kernel names."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

INSTRUCTIONS = {
    "bfloat16": ("amx_bf16", "avx512_bf16", "bf16"),
    "float16": ("amx_fp16", "avx512_fp16", "asimdhp"),
    "int8": ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "asimddp"),
}
"""By precision the flags of instructions that multiply in it: matrices first, then vectors; x86's before ARM's."""


def precisions_of(flags: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The precisions that at least one flag stands for, with those flags."""
    known = set(flags)
    found = {name: tuple(flag for flag in wanted if flag in known) for name, wanted in INSTRUCTIONS.items()}
    return {name: flags for name, flags in found.items() if flags}
