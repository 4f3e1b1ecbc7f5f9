"""The answer of a comparison in words: in how many measurements B is faster, slower, or no different."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.report.compare import Pair


def headline(pairs: Sequence[Pair]) -> str:
    """How many are faster, slower and no different."""
    verdicts = [_sign(pair.differs, pair.ratio) for pair in pairs]
    return f"B is {_counted(verdicts, ('faster', 'no different', 'slower'))}."


def speedup_line(pairs: Sequence[Pair]) -> str:
    """The same of the speed-ups over dense; empty where there are none in both."""
    verdicts = [_sign(pair.speedup_differs, pair.speedup_ratio) for pair in pairs if pair.speedup_ratio is not None]
    return f"B's speed-up over dense is {_counted(verdicts, ('higher', 'no different', 'lower'))}." if verdicts else ""


def _sign(differs: bool | None, ratio: float | None) -> int | None:
    if differs is None:
        return None
    return 0 if not differs else 1 if (ratio or 0) > 1 else -1


def _counted(verdicts: Sequence[int | None], words: tuple[str, str, str]) -> str:
    """``faster in 2 and no different in 5 of 7 that both have``."""
    named = {1: words[0], 0: words[1], -1: words[2], None: "not to be told from A's"}
    counts = {word: verdicts.count(verdict) for verdict, word in named.items() if verdict in verdicts}
    if len(counts) == 1:
        count = f"all {len(verdicts)}" if len(verdicts) > 1 else "the one"
        return f"{next(iter(counts))} in {count} that both have measured"
    parts = [f"{word} in {number}" for word, number in counts.items()]
    return f"{', '.join(parts[:-1])} and {parts[-1]} of {len(verdicts)} that both have measured"
