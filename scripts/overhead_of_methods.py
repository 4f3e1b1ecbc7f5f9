"""Times a training step of ResNet-50, dense against sparse, interleaved, on an NVIDIA GPU.

``python scripts/overhead_of_methods.py [batch] [rounds] [method~pattern~sparsity ...]`` prints one JSON line per method
with the median step and the median of the ratios to dense, and the cost of ``Pruner.step`` alone.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
import torchvision

import st3

STEPS = 5


def make(spec: str, images: torch.Tensor, labels: torch.Tensor) -> tuple[Callable[[], None], Callable[[], None]]:
    """A training step, and the pruner's part of it."""
    method, pattern, sparsity = spec.split("~")
    torch.manual_seed(0)
    model = torchvision.models.resnet50().to(device="cuda", memory_format=torch.channels_last)
    plan = st3.SparsityPlan(sparsity=float(sparsity), pattern=pattern)
    pruner = st3.attach(model, plan, method)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, 0.9, foreach=True)

    def prune() -> None:
        pruner.step(0.6)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(images), labels)
        torch.autograd.backward(loss)
        pruner.adjust_gradients()
        optimizer.step()
        prune()

    return step, prune


def seconds(function: Callable[[], None], calls: int) -> float:
    """Mean time of a call by CUDA events."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        function()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / calls / 1e3


def main() -> None:
    """Measure and print."""
    batch, rounds = int(sys.argv[1]), int(sys.argv[2])
    specs = ["dense~unstructured~0", *sys.argv[3:]]
    images = torch.randn(batch, 3, 224, 224, device="cuda").to(memory_format=torch.channels_last)
    labels = torch.randint(1000, (batch,), device="cuda")
    made = {spec: make(spec, images, labels) for spec in specs}
    for step, _ in made.values():
        seconds(step, 3)
    samples: dict[str, list[float]] = {spec: [] for spec in specs}
    for _ in range(rounds):
        for spec, (step, _) in made.items():
            samples[spec].append(seconds(step, STEPS))
    dense = samples[specs[0]]
    for spec, values in samples.items():
        ratios = [value / base for value, base in zip(values, dense, strict=True)]
        row = {
            "method": spec,
            "step_ms": statistics.median(values) * 1e3,
            "ratio": statistics.median(ratios),
            "pruner_ms": seconds(made[spec][1], 20) * 1e3,
            "gpu": torch.cuda.get_device_name(),
            "batch": batch,
        }
        sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
