"""What every backend and the manifest start from: a network for a fixed batch, whichever entrance it came through."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch.export import ExportedProgram

from compile.graph import Graph
from compile.layers import Layer
from runtime.artifact import Lineage
from runtime.data import Preprocessing
from runtime.errors import UserError
from runtime.manifest import MAX_OUTPUTS

_MOST_NUMBERS = 2**28
"""Of a batch of pictures: the reference answers need some GiB for as many."""


def refuse_large(input_shape: tuple[int, int, int, int]) -> None:
    """Raise ``UserError`` where a batch ``(B, C, H, W)`` has more numbers than a compiler should make up."""
    if math.prod(input_shape) > _MOST_NUMBERS:
        raise UserError(
            f"a batch of {' x '.join(map(str, input_shape))} has more than {_MOST_NUMBERS:,} numbers; give a smaller "
            f"--batch-size, or the network for smaller pictures"
        )


class Origin(msgspec.Struct, frozen=True):
    """What the manifest says of a network: ``patterns`` maps a layer's name to how its zeros lie."""

    lineage: Lineage
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    patterns: dict[str, str]


class Normalisation(msgspec.Struct, frozen=True):
    """What a file does not say of its pictures: ``(x / 255 - mean) / std``, per channel or one number for all."""

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def of(self, shape: tuple[int, int, int]) -> Preprocessing:
        """For pictures ``(C, H, W)``; a ``UserError`` if there are neither one nor C numbers, or they make no sense."""
        mean, std = (values * shape[0] if len(values) == 1 else values for values in (self.mean, self.std))
        try:
            return Preprocessing(shape, mean, std)
        except ValueError as error:
            raise UserError(
                f"--mean {','.join(map(str, self.mean))} --std {','.join(map(str, self.std))}: {error}; "
                f"give one number, or one per channel, with commas between"
            ) from error


class Network(ABC):
    """A network in inference form. ``input_shape`` is ``(B, C, H, W)``; the names are those of the manifest."""

    def __init__(self, input_shape: tuple[int, int, int, int], input_name: str, output_names: tuple[str, ...]) -> None:
        if len(output_names) > MAX_OUTPUTS:
            raise UserError(f"the network has {len(output_names)} outputs, an artifact has at most {MAX_OUTPUTS}")
        refuse_large(input_shape)
        self.input_shape = input_shape
        self.input_name = input_name
        self.output_names = output_names

    @abstractmethod
    def graph(self) -> Graph:
        """The compiler's own graph; a ``UserError`` that names the first operator that it does not have."""

    @abstractmethod
    def layers(self) -> tuple[Layer, ...]:
        """Every convolution and linear layer in execution order."""

    @abstractmethod
    def answer(self, inputs: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """What the network as it was given says to one batch: each output, in the order of the names."""

    @abstractmethod
    def write_onnx(self, path: Path) -> None:
        """Write one ONNX file, weights inside; a ``UserError`` where that cannot be."""

    @abstractmethod
    def program(self) -> ExportedProgram:
        """The network as torch exported it; a ``UserError`` where there is none."""
