"""Dense layers with their epilogue: cuDNN's fused convolutions, cuDNN or cuBLAS with one pass after it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = list[int]


@torch.library.custom_op("st3::dense_fused", mutates_args=())
def dense_fused(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """``relu(conv(x) + bias + residual)`` in one kernel of cuDNN's; ``bias`` has the dtype of ``x``."""
    if not x.is_cuda:
        return _reference(x, weight, bias, residual, stride, padding, dilation, groups, True)
    if residual is None:
        y: Tensor = torch.ops.aten.cudnn_convolution_relu(x, weight, bias, stride, padding, dilation, groups)
    else:
        window = (stride, padding, dilation, groups)
        y = torch.ops.aten.cudnn_convolution_add_relu(x, weight, residual, 1.0, bias, *window)
    return y


@dense_fused.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    del bias, residual, groups
    return _empty(x, weight, stride, padding, dilation)


@torch.library.custom_op("st3::dense_split", mutates_args=())
def dense_split(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    relu: bool,
) -> Tensor:
    """``activation(conv(x) + bias + residual)``: cuDNN, then one pass over its result."""
    if not x.is_cuda:
        return _reference(x, weight, bias, residual, stride, padding, dilation, groups, relu)
    from runtime.cuda.epilogue import add_in_place

    y = torch.conv2d(x, weight, None, stride, padding, dilation, groups)
    add_in_place(y, bias, residual, relu)
    return y


@dense_split.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    relu: bool,
) -> Tensor:
    del bias, residual, groups, relu
    return _empty(x, weight, stride, padding, dilation)


@torch.library.custom_op("st3::dense_gemm", mutates_args=())
def dense_gemm(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    """A 1x1 convolution as the matrix product that it is in channels-last memory; ``weight`` is ``(N, C)``."""
    batch, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(-1, channels)
    if residual is None and relu:
        y = torch._addmm_activation(bias, rows, weight.t())
    elif residual is None:
        y = torch.addmm(bias, rows, weight.t())
    else:
        y = torch.mm(rows, weight.t())
    image = y.view(batch, height, width, -1).permute(0, 3, 1, 2)
    if residual is None:
        return image
    if not x.is_cuda:
        image = image + bias.view(1, -1, 1, 1) + residual
        return (F.relu(image) if relu else image).contiguous(memory_format=torch.channels_last)
    from runtime.cuda.epilogue import add_in_place

    add_in_place(image, bias, residual, relu)
    return image


@dense_gemm.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    del bias, residual, relu
    batch, _, height, width = x.shape
    return x.new_empty((batch, height, width, weight.shape[0])).permute(0, 3, 1, 2)


def _reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    relu: bool,
) -> Tensor:
    """The same in plain ops, for machines without a GPU."""
    y = torch.conv2d(x, weight, bias, stride, padding, dilation, groups)
    y = y if residual is None else y + residual
    y = F.relu(y) if relu else y
    # channels last also where one pixel or one channel makes both orders look alike
    return y.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def _empty(x: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
    size = [
        (x.shape[i + 2] + 2 * padding[i] - dilation[i] * (weight.shape[i + 2] - 1) - 1) // stride[i] + 1 for i in (0, 1)
    ]
    return x.new_empty((x.shape[0], *size, weight.shape[0])).permute(0, 3, 1, 2)
