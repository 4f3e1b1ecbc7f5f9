"""What one layer is to compute on a GPU: everything that decides how fast it can be, but not the weights."""

from __future__ import annotations

import msgspec
import torch

DTYPES: dict[str, torch.dtype] = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


class ConvProblem(msgspec.Struct, frozen=True):
    """``activation(conv(x) + bias + residual)`` of ``x`` ``(B, C, H, W)``, channels last in memory, in ``dtype``.

    ``padding`` is the same on opposite sides: what is not is padded before. ``residual`` says whether a tensor of the
    result's shape is added before the activation. A linear layer is the 1x1 convolution of a map of one pixel; its
    batch is the number of rows.
    """

    batch: int
    channels: int
    height: int
    width: int
    outputs: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    activation: str = "identity"
    residual: bool = False
    dtype: str = "float16"

    @property
    def torch_dtype(self) -> torch.dtype:
        """``dtype`` as torch has it."""
        return DTYPES[self.dtype]

    @property
    def element_bytes(self) -> int:
        """Bytes of one activation or weight."""
        return self.torch_dtype.itemsize

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """``(B, C, H, W)``."""
        return self.batch, self.channels, self.height, self.width

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the result."""
        return _length(self, 0, self.height), _length(self, 1, self.width)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """``(B, N, P, Q)``."""
        return self.batch, self.outputs, *self.output_size

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """``(N, C/groups, R, S)``."""
        return self.outputs, self.channels // self.groups, *self.kernel

    @property
    def rows(self) -> int:
        """Output positions of the whole batch: the M of the matrix product ``(M, K) x (K, N)``."""
        height, width = self.output_size
        return self.batch * height * width

    @property
    def reduction(self) -> int:
        """Weights that one output position of one channel reads: the K of the matrix product."""
        return self.channels // self.groups * self.kernel[0] * self.kernel[1]

    @property
    def macs(self) -> int:
        """Multiply-adds of the whole batch, zeros included."""
        return self.rows * self.reduction * self.outputs

    @property
    def is_pointwise(self) -> bool:
        """Whether it is one matrix product of the map as it lies: 1x1, stride 1, no padding, one group."""
        plain = self.kernel == (1, 1) and self.stride == (1, 1) and self.padding == (0, 0)
        return plain and self.groups == 1


def _length(problem: ConvProblem, axis: int, length: int) -> int:
    reach = problem.dilation[axis] * (problem.kernel[axis] - 1) + 1
    return (length + 2 * problem.padding[axis] - reach) // problem.stride[axis] + 1
