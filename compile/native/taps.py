"""Where the taps of a convolution lie: the byte offset of every (output, input channel, r, s) in the input tensor."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray


class Taps(msgspec.Struct, frozen=True):
    """Strides in bytes from the first tap of an output position, each a multiple of ``vector``.

    ``channels`` are those of the whole input; ``lanes`` of them lie side by side in a vector, and ``channel_stride`` is
    the distance of such vectors. A number takes ``item`` bytes.
    """

    channels: int
    groups: int
    channel_stride: int
    row_stride: int
    column_stride: int
    vector: int
    lanes: int = 1
    item: int = 4

    def input_channel(self, shape: tuple[int, ...]) -> NDArray[np.int64]:
        """``(N, C/groups, R, S)``: the input channel that each weight multiplies."""
        outputs, per_group = shape[:2]
        base = np.arange(outputs) // (outputs // self.groups) * per_group
        channel = base[:, None] + np.arange(per_group)[None, :]
        return np.broadcast_to(channel[:, :, None, None], shape)

    def offsets(self, shape: tuple[int, ...]) -> NDArray[np.int64]:
        """``(N, C/groups, R, S)``: the byte offset of each weight's operand."""
        rows = np.arange(shape[2])[:, None] * self.row_stride
        columns = np.arange(shape[3])[None, :] * self.column_stride
        channel = self.input_channel(shape)
        place = channel // self.lanes * self.channel_stride + channel % self.lanes * self.item
        return place + (rows + columns)[None, None]

    def reach(self, shape: tuple[int, ...]) -> int:
        """The largest offset of any weight, zero or not, where channels do not lie side by side."""
        rows, columns = (shape[2] - 1) * self.row_stride, (shape[3] - 1) * self.column_stride
        return (self.channels - 1) * self.channel_stride + rows + columns
