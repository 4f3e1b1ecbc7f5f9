"""ST-3: sparse training by a global soft threshold and straight-through gradients.

For a training loop of your own::

    pruner = st3.attach(model, st3.SparsityPlan(sparsity=0.9))
    for step, batch in enumerate(loader):
        ...
        optimizer.step()
        pruner.step((step + 1) / total_steps)
    pruner.bake()
    st3.save("checkpoint", model, pruner, shape=(3, 224, 224))
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from st3.checkpoint import Checkpoint, CheckpointInfo, load_checkpoint, write_checkpoint
    from st3.handover import save
    from st3.plan import SparsityPlan
    from st3.pruner import Pruner
    from st3.registry import attach

__all__ = [
    "Checkpoint",
    "CheckpointInfo",
    "Pruner",
    "SparsityPlan",
    "attach",
    "load_checkpoint",
    "save",
    "write_checkpoint",
]

_HOMES = {
    "Checkpoint": "st3.checkpoint",
    "CheckpointInfo": "st3.checkpoint",
    "Pruner": "st3.pruner",
    "SparsityPlan": "st3.plan",
    "attach": "st3.registry",
    "load_checkpoint": "st3.checkpoint",
    "save": "st3.handover",
    "write_checkpoint": "st3.checkpoint",
}


def __getattr__(name: str) -> Any:
    # torch is imported on first use only, so that `st3 --help` answers at once
    if name not in _HOMES:
        raise AttributeError(f"module 'st3' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
