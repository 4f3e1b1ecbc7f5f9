"""The network on disk: a package that AOTInductor compiled, or the exported program where that cannot be."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

PACKAGE = "model.pt2"
PROGRAM = "exported.pt2"


def export(network: nn.Module, example: Tensor) -> ExportedProgram:
    """The network as torch exports it; custom ops stay the ops that they are."""
    with torch.no_grad(), _quiet():
        return torch.export.export(network, (example,))


def write_package(program: ExportedProgram, folder: Path) -> Callable[[Tensor], object]:
    """Compile ``folder/model.pt2`` for this machine's GPU and load it again."""
    path = folder / PACKAGE
    with _quiet():
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))
        package: Callable[[Tensor], object] = torch._inductor.aoti_load_package(str(path), run_single_threaded=True)
    return package


def write_program(program: ExportedProgram, folder: Path) -> None:
    """Write ``folder/exported.pt2``; the example input, which would be pickled, is left out."""
    program.example_inputs = None
    with _quiet():
        torch.export.save(program, folder / PROGRAM)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remarks on its own internals, which no user can change."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
