"""How many runs a machine takes at a time, and the NVIDIA MPS server through which they share a GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from train.dataset import Dataset
from train.recipe import Recipe

_CONTEXT_BYTES = 1 << 30
"""Of a process's CUDA context, libraries and the allocator's slack."""

_PROBE = "import torch; torch.zeros(1, device='cuda').cpu()"
_CONTROL = "nvidia-cuda-mps-control"


def jobs_for(device: str, recipe: Recipe, dataset: Dataset, cores: int) -> int:
    """Runs at a time: one on the CPU; on a GPU as many as fit its free memory, and no more than there are cores.

    A run keeps one core busy with launching kernels.
    """
    if device == "cpu":
        return 1
    free, _ = torch.cuda.mem_get_info()
    return max(1, min(cores, int(0.9 * free) // memory_of(recipe, dataset)))


def memory_of(recipe: Recipe, dataset: Dataset) -> int:
    """Estimated bytes of one run on a GPU: context, pictures, weights four times, each layer's output three times."""
    shape = dataset.preprocessing.shape
    pictures = dataset.size * shape[0] * shape[1] * shape[2] if dataset.on_device else 0
    outputs = 0

    def count(module: nn.Module, inputs: object, output: object) -> None:
        nonlocal outputs
        del inputs
        if isinstance(output, Tensor) and not list(module.children()):
            outputs += output.numel() * 4

    with torch.device("meta"), torch.no_grad():
        model = recipe.model()
        for module in model.modules():
            module.register_forward_hook(count)
        model(torch.zeros(recipe.batch_size, *shape))
    weights = sum(parameter.numel() * 4 for parameter in model.parameters())
    return _CONTEXT_BYTES + pictures + 4 * weights + 3 * outputs


@contextmanager
def shared_gpu(jobs: int, device: str) -> Iterator[tuple[dict[str, str], str]]:
    """Several processes on one GPU: through MPS where that works, else by time slicing.

    Yields:
        Environment variables for the runs, and a line that says how they share.
    """
    if device == "cpu" or jobs < 2:
        yield {}, ""
        return
    if shutil.which(_CONTROL) is None:
        yield {}, f"runs take turns on the GPU: {_CONTROL} is not here"
        return
    # short, since the server's sockets lie in it
    with tempfile.TemporaryDirectory(prefix="mps-") as folder:
        places = {name: str(Path(folder) / name) for name in ("pipe", "log")}
        for place in places.values():
            Path(place).mkdir()
        variables = {"CUDA_MPS_PIPE_DIRECTORY": places["pipe"], "CUDA_MPS_LOG_DIRECTORY": places["log"]}
        reason = _start(variables)
        try:
            if reason:
                yield {}, f"runs take turns on the GPU: MPS does not work here ({reason})"
            else:
                yield variables, f"{jobs} runs share the GPU through MPS"
        finally:
            _control(variables, "quit")


def _start(variables: dict[str, str]) -> str:
    """Start the server and let one process use it; why that failed, or nothing."""
    environment = {**os.environ, **variables}
    try:
        started = subprocess.run([_CONTROL, "-d"], env=environment, capture_output=True, text=True, timeout=30)
        if started.returncode:
            return _last(started.stdout + started.stderr, "the server did not start")
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE], env=environment, capture_output=True, text=True, timeout=90
        )
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return _last(probe.stderr, "a first process failed") if probe.returncode else ""


def _control(variables: dict[str, str], order: str) -> None:
    try:
        subprocess.run(
            [_CONTROL], input=f"{order}\n", env={**os.environ, **variables}, capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return  # it was not running


def _last(text: str, otherwise: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else otherwise
