"""What a checkpoint says of weights that no step has trained: pruned at once, or never trained at all."""

from __future__ import annotations

from typing import Any

from st3.checkpoint import CheckpointInfo, stepless_info
from st3.plan import SparsityPlan
from train.provenance import commit, versions


def untrained_info(plan: SparsityPlan, pattern: str, **facts: Any) -> CheckpointInfo:
    """``stepless_info`` of this code, and of the CPU where ``facts`` say no other."""
    return stepless_info(plan, pattern, **{"device": "cpu"} | facts, commit=commit(), versions=versions())
