"""The entrance for checkpoints: torch's exported program, captured for a fixed batch."""

from __future__ import annotations

from pathlib import Path
from typing import final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves

from compile.capture import capture, check_outputs
from compile.export_onnx import export_onnx
from compile.from_torch import read_graph
from compile.graph import Graph
from compile.layers import Layer, read_layers
from compile.network import Network, Origin
from runtime.artifact import Lineage
from runtime.data import sha256_of
from st3.checkpoint import INFO_FILE, load_checkpoint

INPUT = "input"
"""What an artifact calls the pictures of a checkpoint's network."""


@final
class TorchNetwork(Network):
    """An exported program. What is built is the captured one; what answers is the program as it was."""

    def __init__(self, program: ExportedProgram, shape: tuple[int, int, int], batch_size: int) -> None:
        captured = capture(program, shape, batch_size)
        super().__init__((batch_size, *shape), INPUT, captured.outputs)
        check_outputs(captured, INPUT)
        self._program, self._captured = program, captured

    def graph(self) -> Graph:
        """See ``Network.graph``."""
        return read_graph(self._captured)

    def layers(self) -> tuple[Layer, ...]:
        """See ``Network.layers``; batch normalisation is folded."""
        return read_layers(self._captured)

    def answer(self, inputs: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """See ``Network.answer``; unfolded, in torch."""
        with torch.no_grad():
            answer = self._program.module()(torch.from_numpy(inputs))
        return tuple(output.numpy() for output in tree_leaves(answer))

    def write_onnx(self, path: Path) -> None:
        """See ``Network.write_onnx``; torch's exporter writes it."""
        onnx.save(export_onnx(self._captured.program, self.input_name, self.output_names), path)

    def program(self) -> ExportedProgram:
        """See ``Network.program``."""
        return self._captured.program


def open_checkpoint(folder: Path, batch_size: int) -> tuple[Network, Origin]:
    """Load a checkpoint for a batch size; a ``UserError`` if it is damaged or cannot be fixed to that batch."""
    checkpoint = load_checkpoint(folder)
    info = checkpoint.info
    network = TorchNetwork(checkpoint.exported_program(), info.preprocessing.shape, batch_size)
    lineage = Lineage(
        recipe=info.recipe,
        method=info.method,
        pattern=info.pattern,
        target_sparsity=info.target_sparsity,
        sparsity=info.sparsity,
        accuracy=info.accuracy,
        seed=info.seed,
        commit=info.commit,
        checkpoint_sha256=sha256_of(folder / INFO_FILE),
        versions=info.versions,
    )
    patterns = {layer.name: layer.pattern for layer in info.layers}
    return network, Origin(lineage, info.classes, info.preprocessing, patterns)
