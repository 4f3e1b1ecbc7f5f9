"""The Triton kernels in Triton's interpreter, which needs no GPU but a process of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton, which is not here")

SELECTION = """
import torch
from st3.gpu_selection import chunk_table
from st3.thresholds import Segments, quantiles
torch.manual_seed(0)
for lengths in ((1,), (20_001,), (3, 9000, 17, 8192)):
    values = torch.randn(sum(lengths)).abs()
    if len(lengths) > 1:
        values = (values * 4).round() / 4
    segments = Segments(lengths, values.device)
    for fraction in (0.0, 0.5, 0.9, 0.999):
        fractions = torch.full((len(lengths),), fraction, dtype=torch.float64)
        segments.chunks = None
        expected = quantiles(values, fractions, segments)
        segments.chunks = chunk_table(lengths, values.device)
        assert torch.equal(quantiles(values, fractions, segments), expected), (lengths, fraction)
"""
EFFECTIVE = """
import torch
from st3.formulas import channel_scale, soft_threshold
from st3.gpu_effective import scaled_soft_threshold, suits
torch.manual_seed(0)
for shape in ((7, 3, 3, 3), (16, 1, 3, 3), (5, 24, 1, 1), (3, 4000)):
    for layout in (torch.contiguous_format, torch.channels_last)[: len(shape) // 2]:
        weight = torch.randn(shape).to(memory_format=layout)
        assert suits(weight)
        for threshold in (torch.tensor(0.0), torch.tensor(0.8)):
            found = scaled_soft_threshold(weight, threshold)
            kept = weight.abs() > threshold
            expected = channel_scale(weight.abs(), kept, threshold) * soft_threshold(weight, threshold)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
            assert torch.equal(found == 0, expected == 0)
            assert found.stride() == weight.stride()
assert not suits(torch.zeros(4, 4).t()[:2].double())
"""


@pytest.mark.parametrize("program", [SELECTION, EFFECTIVE], ids=["selection", "effective"])
def test_kernels_agree_with_the_plain_formulas(program: str) -> None:
    root = str(Path(__file__).parent.parent.parent)
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": root}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
