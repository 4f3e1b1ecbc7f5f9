"""Puts the tables into a Markdown file, between ``<!-- table:NAME -->`` and ``<!-- /table -->``."""

from __future__ import annotations

import re
from collections.abc import Callable

from runtime.errors import UserError

_OPEN = re.compile(r"<!-- table:([^ ]*) -->")
_TABLE = re.compile(r"(<!-- table:([a-z0-9-]+) -->\n)(.*?)(<!-- /table -->)", re.DOTALL)
_CLOSE = "<!-- /table -->"


def with_tables(text: str, make: Callable[[str], str]) -> str:
    """``text`` with every table made anew.

    Raises:
        UserError: a marker has no end, an end no marker, or there is no such table.
    """
    whole = _TABLE.findall(text)
    if len(whole) != len(_OPEN.findall(text)) or len(whole) != text.count(_CLOSE):
        raise UserError(
            "the markers of the tables do not match: a line <!-- table:NAME -->, the table, a line <!-- /table -->"
        )
    return _TABLE.sub(lambda found: f"{found[1]}{make(found[2])}\n{found[4]}", text)
