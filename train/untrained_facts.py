"""What a checkpoint says of weights that no step has trained: pruned at once, or never trained at all."""

from __future__ import annotations

from typing import Any

import torch

from st3.checkpoint import CheckpointInfo
from st3.plan import SparsityPlan
from train.provenance import commit, versions


def untrained_info(plan: SparsityPlan, pattern: str, **facts: Any) -> CheckpointInfo:
    """No epochs, no steps, and, where ``facts`` say no other, no accuracy, no loss, no time, and the CPU.

    Args:
        plan: what the zeros follow.
        pattern: of the network as a whole.
        facts: the other fields of ``CheckpointInfo``.
    """
    usual: dict[str, Any] = {"accuracy": 0.0, "loss": 0.0, "seed": 0, "device": "cpu", "train_seconds": 0.0}
    return CheckpointInfo(
        plan=plan,
        pattern=pattern,
        target_sparsity=plan.target,
        epochs=0.0,
        steps=0,
        batch_size=0,
        threads=torch.get_num_threads(),
        commit=commit(),
        versions=versions(),
        **usual | facts,
    )
