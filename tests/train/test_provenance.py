from __future__ import annotations

import platform
import re

import torch

from train.provenance import commit, versions


def test_commit_is_a_hash_or_honestly_unknown() -> None:
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", commit())


def test_versions_are_those_that_run() -> None:
    found = versions()
    assert found["python"] == platform.python_version()
    assert torch.__version__.startswith(found["torch"].partition("+")[0])
    assert set(found) == {"python", "torch", "torchvision", "st3"}
