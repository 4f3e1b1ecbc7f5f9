"""One small member of each of torchvision's families, randomly pruned, compiled and compared with torch.

g++ takes most of the time.
"""

from __future__ import annotations

import pytest
import torch
from families import NETWORKS
from support import Compiler, prune_randomly


@pytest.mark.parametrize("name", NETWORKS)
def test_network_agrees_with_torch(compiler: Compiler, name: str) -> None:
    torch.manual_seed(0)
    make, size = NETWORKS[name]
    assert compiler.deviation(prune_randomly(make(), 0.3), (3, size, size)) < 1e-5
