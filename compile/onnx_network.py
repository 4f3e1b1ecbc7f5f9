"""The entrance for ONNX files: read for a fixed batch, answered by ONNX Runtime on the file as it was given."""

from __future__ import annotations

from pathlib import Path
from typing import final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from torch.export import ExportedProgram

from compile.from_onnx import read_graph
from compile.graph import Graph
from compile.layers import Layer, graph_layers
from compile.network import Network, Normalisation, Origin
from compile.onnx_file import OnnxFile, digest_of, read_onnx
from compile.onnx_layers import file_layers
from compile.onnx_ops.state import TooLargeError
from compile.onnx_run import run_onnx
from runtime.artifact import Lineage
from runtime.errors import UserError

_MOST_CLASSES = 2**20
"""More answers to a picture than this are no classes."""
_CLOSE = 1e-4
"""How far a file rewritten for another batch may be from the file as it was, relative to the largest answer."""


@final
class OnnxNetwork(Network):
    """A file and its graph for a batch size, or why it has none, which backends that need none do not ask.

    ``answers`` is how many numbers it answers to a picture, 0 where these are no classes.
    """

    def __init__(self, file: OnnxFile, batch_size: int) -> None:
        super().__init__((batch_size, *file.shape), file.input_name, file.output_names)
        self._file = file
        self._ends = file.input_name, file.output_names
        self._graph: Graph | UserError
        try:
            self._graph = read_graph(file, batch_size)
            self._layers = graph_layers(self._graph)
            shape = self._graph.shapes[self._graph.output]
            self.answers = shape[0] if shape[1:] == (1, 1) and len(file.output_names) == 1 else 0
        except TooLargeError:
            raise
        except UserError as refusal:
            self._graph = refusal
            self._layers, self.answers = _unread(file, refusal)

    def graph(self) -> Graph:
        """See ``Network.graph``."""
        if isinstance(self._graph, UserError):
            raise UserError(f"{self._graph}; --backend onnxruntime takes the file as it is") from self._graph
        return self._graph

    def layers(self) -> tuple[Layer, ...]:
        """See ``Network.layers``; batch normalisation is folded."""
        return self._layers

    def answer(self, inputs: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """See ``Network.answer``; a file with a fixed batch is run as often as it takes, the last time with zeros."""
        size = self._file.batch or len(inputs)
        results = []
        for start in range(0, len(inputs), size):
            batch = np.zeros((size, *inputs.shape[1:]), np.float32)
            part = inputs[start : start + size]
            batch[: len(part)] = part
            answers = run_onnx(self._file.path, str(self._file.path), *self._ends, batch)
            results.append([answer[: len(part)] for answer in answers])
        return tuple(np.concatenate(output) for output in zip(*results, strict=True))

    def write_onnx(self, path: Path) -> None:
        """See ``Network.write_onnx``; the file itself, its batch fixed to this network's and weights inside.

        Raises:
            UserError: the file is fixed to another batch in a way that cannot be rewritten.
        """
        file, batch_size = self._file, self.input_shape[0]
        model = with_batch(file, batch_size)
        if file.batch not in (None, batch_size):
            inputs = np.random.default_rng(0).standard_normal(self.input_shape).astype(np.float32)
            expected = self.answer(inputs)
            try:
                results = run_onnx(file.path, model.SerializeToString(), *self._ends, inputs)
                same = all(map(_close, results, expected))
            except UserError:
                same = False
            if not same:
                raise UserError(
                    f"{file.path} is made for batches of {file.batch} and cannot be rewritten for {batch_size}; "
                    f"compile it with --batch-size {file.batch}, or export it again with a dynamic batch"
                )
        onnx.save(model, path)

    def program(self) -> ExportedProgram:
        """There is none."""
        raise UserError(
            f"{self._file.path} is an ONNX file, which the inductor backend cannot compile: it needs a checkpoint "
            f"(st3 train, st3.write_checkpoint); use native or onnxruntime"
        )


def with_batch(file: OnnxFile, batch_size: int) -> ModelProto:
    """A copy whose input, and whose reshapes to the file's own batch, have ``batch_size`` pictures."""
    model = ModelProto()
    model.CopyFrom(file.model)
    graph = model.graph
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        if value.name in (file.input_name, *file.output_names) and value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_value = batch_size
    if file.batch in (None, batch_size):
        return model
    weights, constants = file.constants, dict(file.constants)
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    for node in graph.node:
        shape = constants.get(node.input[1]) if node.op_type == "Reshape" and node.input[0] not in weights else None
        if shape is not None and shape.size and shape[0] == file.batch:
            name = f"{node.input[1]}.{node.output[0]}.batch"
            graph.initializer.append(numpy_helper.from_array(np.array([batch_size, *shape[1:]], np.int64), name))
            node.input[1] = name
    return model


def open_onnx(path: Path, batch_size: int, normalisation: Normalisation) -> tuple[Network, Origin]:
    """Read an ONNX file for a batch size.

    Args:
        path: the file.
        batch_size: pictures per run.
        normalisation: of the pictures that it was trained on.

    Raises:
        UserError: the file, its network or the normalisation is not one that st3 can compile.
    """
    file = read_onnx(path)
    network = OnnxNetwork(file, batch_size)
    weights = sum(layer.weight.size for layer in network.layers())
    nonzeros = sum(int(np.count_nonzero(layer.weight)) for layer in network.layers())
    sparsity = 1 - nonzeros / max(1, weights)
    producer = {file.model.producer_name: file.model.producer_version} if file.model.producer_name else {}
    lineage = Lineage(
        recipe=path.name,
        method="onnx",
        pattern="unstructured" if nonzeros < weights else "dense",
        target_sparsity=round(sparsity, 4),
        sparsity=sparsity,
        accuracy=None,
        seed=None,
        commit="unknown",
        checkpoint_sha256=digest_of(path),
        versions={"opset": str(file.opset), **producer},
    )
    patterns = {layer.name: "dense" if np.all(layer.weight) else "unstructured" for layer in network.layers()}
    classes = network.answers if network.answers <= _MOST_CLASSES else 0
    return network, Origin(lineage, tuple(map(str, range(classes))), normalisation.of(file.shape), patterns)


def _unread(file: OnnxFile, refusal: UserError) -> tuple[tuple[Layer, ...], int]:
    """Layers and answers of a file that the graph cannot hold; the ``refusal`` itself where it does not run either."""
    try:
        layers, answer = file_layers(file)
    except UserError:
        raise refusal from None
    return layers, answer[1] if len(answer) == 2 and len(file.output_names) == 1 else 0


def _close(result: NDArray[np.float32], expected: NDArray[np.float32]) -> bool:
    same_shape = result.shape == expected.shape
    return same_shape and bool(np.abs(result - expected).max() <= _CLOSE * np.abs(expected).max())
