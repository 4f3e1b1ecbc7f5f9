"""All weights for channels in the lanes: what the dense format packs, with inputs that lie side by side."""

from __future__ import annotations

from compile.formats.dense import pack, reject, unpack

__all__ = ["pack", "reject", "unpack"]
