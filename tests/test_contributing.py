"""CONTRIBUTING's table of places names files and folders that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_place_is_there() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Where is ...?")[1].split("\n\n")[0]
    places = re.findall(r"`([^`\s]*/[^`\s]*)`", table)
    assert len(places) > 50
    assert [place for place in places if not list(ROOT.glob(place.rstrip("/")))] == []
