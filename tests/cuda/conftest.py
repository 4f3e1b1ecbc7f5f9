"""Fixtures of the tests of the target cuda."""

from __future__ import annotations

import pytest
from fakes import KeptColumns

from compile.cuda import candidates, choice, format, tuning_cache  # noqa: A004 - the module's own name


@pytest.fixture
def kept_columns(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> KeptColumns:
    """The formats are dense and one for tests, and nothing was ever measured."""
    fake, real = KeptColumns(), format.find_format
    for module in (candidates, choice):
        monkeypatch.setattr(module, "find_format", lambda name: fake if name == "kept_columns" else real(name))
    monkeypatch.setattr(candidates, "format_names", lambda: ["dense", "kept_columns"])
    monkeypatch.setattr(tuning_cache, "source_digest", lambda name: name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return fake
