"""The layers that stand for a ResNet: 64 channels at 28x28, 3x3 and 1x1, with weights of any sparsity."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from compile.graph import Conv, Graph, Shape

CHANNELS = 64
SIDE = 28
KERNELS = (3, 1)
BLOCK = 4
UNSTRUCTURED = "unstructured"
BLOCKS = f"1x{BLOCK}"
TWO_OF_FOUR = "2:4"
_SEED = 20221201


class Layer(msgspec.Struct, frozen=True):
    """One convolution: ``kernel`` x ``kernel``, stride 1, as many channels out as in, ReLU behind it."""

    kernel: int
    sparsity: float = 0.0
    weights: str = UNSTRUCTURED

    @property
    def title(self) -> str:
        """``3x3, 64 to 64 channels, 28x28``."""
        return f"{self.kernel}x{self.kernel}, {CHANNELS} to {CHANNELS} channels, {SIDE}x{SIDE}"

    def weight(self, seed: int = _SEED) -> NDArray[np.float32]:
        """``(64, 64, kernel, kernel)``, zeros at random, scaled so that a chain of layers neither grows nor dies out.

        Exactly the share ``sparsity`` of the weights is zero, of blocks where they lie in blocks; of 2:4 it is half.
        """
        generator = np.random.default_rng(seed)
        shape = (CHANNELS, CHANNELS, self.kernel, self.kernel)
        kept = self._kept(generator)
        density = max(float(kept.mean()), 1 / kept[0].size)
        values = generator.standard_normal(shape) * math.sqrt(2 / (kept[0].size * density))
        return (values * kept).astype(np.float32)

    def _kept(self, generator: np.random.Generator) -> NDArray[np.bool_]:
        if self.weights == TWO_OF_FOUR:
            order = generator.random((CHANNELS, CHANNELS // 4, 4, self.kernel, self.kernel)).argsort(axis=2)
            return (order < 2).reshape(CHANNELS, CHANNELS, self.kernel, self.kernel)
        block = BLOCK if self.weights == BLOCKS else 1
        order = generator.permutation(CHANNELS // block * CHANNELS * self.kernel**2)
        kept = order >= round(self.sparsity * order.size)
        return np.repeat(kept.reshape(CHANNELS // block, CHANNELS, self.kernel, self.kernel), block, axis=0)


def chain(layers: Sequence[Layer]) -> Graph:
    """The layers one after another; layer ``i`` writes the value ``c<i>``, and no two have the same zeros."""
    nodes = []
    source = "input"
    for index, layer in enumerate(layers):
        output, edge = f"c{index}", layer.kernel // 2
        nodes.append(
            Conv(
                output=output,
                input=source,
                layer=output,
                op="conv2d",
                weight=layer.weight(_SEED + index),
                bias=np.full(CHANNELS, 0.01, np.float32),
                padding=(edge, edge, edge, edge),
                activation="relu",
            )
        )
        source = output
    shape: Shape = (CHANNELS, SIDE, SIDE)
    return Graph("input", source, tuple(nodes), dict.fromkeys(["input", *(node.output for node in nodes)], shape))
