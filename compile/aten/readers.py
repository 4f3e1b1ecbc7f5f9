"""The table of torch's operators and their readers."""

from __future__ import annotations

import operator

import torch

from compile.aten import channels, elementwise, layers, pooling, shaping
from compile.aten.state import Reader

aten = torch.ops.aten

READERS: dict[object, Reader] = {
    aten.conv2d.default: layers.conv2d,
    aten.conv2d.padding: layers.conv2d,
    aten.linear.default: layers.linear,
    aten.batch_norm.default: layers.batch_norm,
    aten.layer_norm.default: layers.layer_norm,
    aten.relu.default: elementwise.activation("relu"),
    aten.relu_.default: elementwise.activation("relu"),
    aten.relu6.default: elementwise.activation("relu6"),
    aten.silu.default: elementwise.activation("silu"),
    aten.silu_.default: elementwise.activation("silu"),
    aten.hardswish.default: elementwise.activation("hardswish"),
    aten.hardswish_.default: elementwise.activation("hardswish"),
    aten.sigmoid.default: elementwise.activation("sigmoid"),
    aten.sigmoid_.default: elementwise.activation("sigmoid"),
    aten.hardsigmoid.default: elementwise.activation("hardsigmoid"),
    aten.hardsigmoid_.default: elementwise.activation("hardsigmoid"),
    aten.gelu.default: elementwise.gelu,
    aten.gelu_.default: elementwise.gelu,
    aten.hardtanh.default: elementwise.clamp,
    aten.hardtanh_.default: elementwise.clamp,
    aten.clamp.default: elementwise.clamp,
    aten.clamp_.default: elementwise.clamp,
    aten.clamp_min.default: elementwise.clamp,
    aten.clamp_min_.default: elementwise.clamp,
    aten.add.Tensor: elementwise.add,
    aten.add_.Tensor: elementwise.add,
    aten.sub.Tensor: elementwise.subtract,
    aten.sub_.Tensor: elementwise.subtract,
    aten.rsub.Scalar: elementwise.subtract_from,
    aten.mul.Tensor: elementwise.multiply,
    aten.mul_.Tensor: elementwise.multiply,
    aten.div.Tensor: elementwise.divide,
    aten.div_.Tensor: elementwise.divide,
    aten.max_pool2d.default: pooling.max_pool,
    aten.max_pool2d_with_indices.default: pooling.max_pool,
    aten.avg_pool2d.default: pooling.average_pool,
    aten.adaptive_avg_pool2d.default: pooling.adaptive_pool(maximum=False),
    aten.adaptive_max_pool2d.default: pooling.adaptive_pool(maximum=True),
    aten.mean.dim: pooling.mean,
    aten.flatten.using_ints: shaping.reshaped,
    aten.unflatten.int: shaping.reshaped,
    aten.view.default: shaping.reshaped,
    aten.reshape.default: shaping.reshaped,
    aten.squeeze.dim: shaping.reshaped,
    aten.squeeze.dims: shaping.reshaped,
    aten.unsqueeze.default: shaping.reshaped,
    aten.permute.default: shaping.permute,
    aten.transpose.int: shaping.permute,
    aten.alias.default: shaping.same,
    aten.detach.default: shaping.same,
    aten.contiguous.default: shaping.copied,
    aten.clone.default: shaping.copied,
    aten.dropout.default: shaping.dropout,
    aten.dropout_.default: shaping.dropout,
    aten.feature_dropout.default: shaping.dropout,
    aten.feature_dropout_.default: shaping.dropout,
    aten.cat.default: shaping.concat,
    aten.chunk.default: channels.chunk,
    aten.split.Tensor: channels.split,
    aten.split.sizes: channels.split,
    aten.split_with_sizes.default: channels.split,
    aten.slice.Tensor: channels.slice_channels,
    aten.channel_shuffle.default: channels.shuffle,
    operator.getitem: shaping.one_result,
}
