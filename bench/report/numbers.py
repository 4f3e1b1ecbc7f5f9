"""How numbers are written for people: few digits, a unit, a dash where there is none."""

from __future__ import annotations

NONE = "–"  # noqa: RUF001 - a dash is what a table prints


def accuracy(value: float | None) -> str:
    """A fraction with four decimals: one picture in ten thousand."""
    return NONE if value is None else f"{value:.4f}"


def milliseconds(value: float | None) -> str:
    """Three significant digits, never in exponent form."""
    if value is None:
        return NONE
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def times(value: float | None) -> str:
    """A speed-up or another ratio."""
    if value is None:
        return NONE
    return f"{value:.2f}×" if value < 10 else f"{value:.1f}×"  # noqa: RUF001 - a ratio is written with this sign


def interval(low: float | None, high: float | None) -> str:
    """The limits of a ratio."""
    return NONE if low is None or high is None else f"{low:.2f} to {high:.2f}"


def megabytes(value: int | None) -> str:
    """Bytes in MB of a million."""
    return NONE if value is None else f"{value / 1e6:.2f} MB" if value < 1e7 else f"{value / 1e6:.0f} MB"


def millions(value: int | None) -> str:
    """MACs in millions."""
    if value is None:
        return NONE
    return f"{value / 1e6:.2f} M"


def macs(value: int | None) -> str:
    """MACs in millions, from a thousand millions on in those."""
    return f"{value / 1e9:.2f} G" if value is not None and value >= 1e9 else millions(value)


def percent(value: float | None) -> str:
    """A relative difference. Sparsities and accuracies are fractions and never pass through here."""
    return NONE if value is None else f"{value:.1%}"


def gflops(value: float | None) -> str:
    """GFLOP/s, or GB/s."""
    return NONE if value is None else f"{value:.1f}"


def rate(value: float | None) -> str:
    """Pictures a second."""
    return NONE if value is None else f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def millijoules(value: float | None) -> str:
    """Joules in thousandths."""
    return NONE if value is None else f"{value * 1e3:.3g}"


def threads(value: int) -> str:
    """``1 thread``, ``2 threads``."""
    return f"{value} thread" if value == 1 else f"{value} threads"
