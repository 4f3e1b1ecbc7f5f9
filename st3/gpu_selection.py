"""Order statistics on an NVIDIA GPU: Triton kernels that count keys against pivots.

Histograms in memory would queue up at the few exponents that weights have. Here each pass compares every key with the
15 pivots of the next four bits in registers, so that its cost depends on the number of keys alone.
"""

# mypy: disable-error-code="import-untyped,untyped-decorator,no-untyped-def"
# Triton ships no types, and the parameters of a kernel are of Triton's own.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_LARGEST = 0x7FFFFFFF
_PASSES = 8  # 3 bits, then 7 times 4
_CHUNK = 8192


def chunk_table(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """``(chunks, 3)`` int32: start, end and segment of the keys that one program of a kernel looks at."""
    rows, start = [], 0
    for segment, length in enumerate(lengths):
        end = start + length
        rows += [(first, min(first + _CHUNK, end), segment) for first in range(start, end, _CHUNK)]
        start = end
    return torch.tensor(rows, dtype=torch.int32, device=device)


def select(keys: Tensor, ranks: Tensor, chunks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As ``st3.thresholds`` selects: per segment the key of its rank, the next larger one, and whether it is doubled.

    Args:
        keys: ``(n,)`` int32, none negative.
        ranks: ``(segments,)`` int32, from 0.
        chunks: ``chunk_table`` of the segments.
    """
    counts = torch.zeros(_PASSES, len(ranks), 16, dtype=torch.int32, device=keys.device)
    found = torch.empty_like(ranks)
    above = torch.full_like(ranks, _LARGEST)
    upto = torch.zeros_like(ranks)
    grid = (len(chunks),)
    for number in range(_PASSES):
        _count[grid](keys, chunks, ranks, counts, len(ranks), number, _CHUNK, num_warps=4)
    _neighbours[grid](keys, chunks, ranks, counts, found, above, upto, len(ranks), _PASSES, _CHUNK, num_warps=4)
    return found, above, upto > ranks + 1


@triton.jit
def _prefix(counts, rank, segment, segments, PASSES: tl.constexpr):
    """Leading digits of the key of that rank, by the counts of the passes done."""
    digits = tl.arange(0, 16)
    prefix = rank * 0  # a tensor from the start, with no pass done too
    for done in tl.static_range(PASSES):
        below = tl.load(counts + (done * segments + segment) * 16 + digits)
        fits = below <= rank
        if done == 0:
            fits = fits & (digits < 8)  # the first digit has three bits
        prefix += (tl.sum(fits.to(tl.int32)) - 1) << (28 - 4 * done)
    return prefix


@triton.jit
def _count(keys, chunks, ranks, counts, segments, PASS: tl.constexpr, CHUNK: tl.constexpr):
    """How many keys of a segment lie below each value of the next digit."""
    chunk = chunks + 3 * tl.program_id(0)
    start, end, segment = tl.load(chunk), tl.load(chunk + 1), tl.load(chunk + 2)
    prefix = _prefix(counts, tl.load(ranks + segment), segment, segments, PASS)
    places = start + tl.arange(0, CHUNK)
    key = tl.load(keys + places, mask=places < end, other=0x7FFFFFFF)
    row = counts + (PASS * segments + segment) * 16
    for digit in tl.static_range(1, 8 if PASS == 0 else 16):
        pivot = prefix + (digit << (28 - 4 * PASS))
        tl.atomic_add(row + digit, tl.sum((key < pivot).to(tl.int32)), sem="relaxed")


@triton.jit
def _neighbours(keys, chunks, ranks, counts, found, above, upto, segments, PASSES: tl.constexpr, CHUNK: tl.constexpr):
    """The key that was searched for, the smallest larger one, and how many keys are not larger."""
    chunk = chunks + 3 * tl.program_id(0)
    start, end, segment = tl.load(chunk), tl.load(chunk + 1), tl.load(chunk + 2)
    low = _prefix(counts, tl.load(ranks + segment), segment, segments, PASSES)
    places = start + tl.arange(0, CHUNK)
    key = tl.load(keys + places, mask=places < end, other=0x7FFFFFFF)
    larger = key > low
    tl.store(found + segment, low)  # every program of the segment stores the same
    tl.atomic_min(above + segment, tl.min(tl.where(larger, key, 0x7FFFFFFF)), sem="relaxed")
    inside = (places < end) & (key <= low)
    tl.atomic_add(upto + segment, tl.sum(inside.to(tl.int32)), sem="relaxed")
