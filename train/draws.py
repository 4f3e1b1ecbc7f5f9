"""Random bits as a pure function of a seed and a place: the same on every device, in any order, for any process.

A generator of torch gives other numbers on a GPU than on a CPU, and has to be run through in order. These do not.
"""

from __future__ import annotations

from torch import Tensor

_GOLDEN, _FIRST, _SECOND = (
    # the constants of the source as signed numbers, since torch has no arithmetic on unsigned ones
    value - (1 << 64)
    for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def draw(seed: int, places: Tensor) -> Tensor:
    """64 random bits for each place.

    SplitMix64: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", figure 15.

    Args:
        seed: in [0, 2^63).
        places: ``int64`` of any shape; different places get independent bits.
    """
    bits = (places + 1) * _GOLDEN + seed
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)


def below(limit: int, bits: Tensor, first: int) -> Tensor:
    """A number in [0, limit) from the twenty bits from bit ``first`` on; limit is at most a thousand or so."""
    return ((bits >> first & 0xFFFFF) * limit) >> 20


def unit(bits: Tensor) -> Tensor:
    """A ``float64`` in [0, 1) from the highest 53 bits."""
    return _shifted(bits, 11).double() * 2.0**-53


def _shifted(bits: Tensor, count: int) -> Tensor:
    """Right by ``count`` with zeros coming in, which torch's shift of signed numbers does not do."""
    return bits >> count & ((1 << (64 - count)) - 1)
