"""Torch's operators as nodes of the graph: views without data movement, constants, in-place writes, refusals."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from graph_interpreter import run_graph
from support import capture_module
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from compile.capture import capture
from compile.from_torch import read_graph
from compile.graph import Concat, Conv, Elementwise, Graph, LayerNorm, Mean, Resize
from compile.passes.simplify import simplify
from runtime.errors import UserError


class Function(nn.Module):
    """A function of a map and of whatever layers it is given."""

    def __init__(self, function: Callable[..., Tensor], **layers: nn.Module | Tensor) -> None:
        super().__init__()
        self.function = function
        self.names = tuple(layers)
        for name, layer in layers.items():
            if isinstance(layer, nn.Module):
                self.add_module(name, layer)
            else:
                self.register_buffer(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *(getattr(self, name) for name in self.names))


def graph_of(module: nn.Module, shape: tuple[int, int, int] = (4, 6, 5), batch_size: int = 2) -> Graph:
    """The simplified graph, after a comparison of it with torch, before and after the rewrites."""
    torch.manual_seed(0)
    inputs = torch.randn(batch_size, *shape)
    with torch.no_grad():
        expected = module.eval()(inputs.clone()).numpy()
    read = read_graph(capture_module(module, shape, batch_size))
    graph = simplify(read)
    for each in (read, graph):
        result = run_graph(each, inputs.numpy()).reshape(expected.shape)
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
    return graph


def layer_norm_first(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def shuffled(x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous().view(x.shape)


CASES: dict[str, tuple[nn.Module, tuple[type, ...]]] = {
    "permuted layer norm": (Function(layer_norm_first, norm=nn.LayerNorm(4)), (LayerNorm,)),
    "linear over channels": (
        Function(lambda x, fc: fc(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), fc=nn.Linear(4, 7)),
        (Conv,),
    ),
    "linear over a map flattened channels first": (
        Function(lambda x, fc: fc(x.flatten(1)), fc=nn.Linear(120, 3)),
        (Conv,),
    ),
    "linear over a map flattened channels last": (
        Function(lambda x, fc: fc(x.permute(0, 2, 3, 1).flatten(1)), fc=nn.Linear(120, 3)),
        (Conv,),
    ),
    "a view of tokens before pictures": (
        Function(
            lambda x, fc, head: head(
                fc(x.flatten(2).permute(2, 0, 1)).view(30, -1).unflatten(1, (-1, 2)).transpose(0, 1).flatten(1)
            ),
            fc=nn.Linear(4, 2),
            head=nn.Linear(60, 3),
        ),
        (Conv, Conv),
    ),
    "linear over a row-major token map": (
        Function(
            lambda x, fc: fc(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, (6, 5)), fc=nn.Linear(4, 2)
        ),
        (Conv,),
    ),
    **{
        f"resized, {name}": (Function(partial(F.interpolate, **how)), (Resize,))
        for name, how in {
            "nearest by a factor": {"scale_factor": 2},
            "nearest by an uneven factor": {"scale_factor": 1.7},
            "nearest to a smaller size": {"size": (4, 3)},
            "bilinear": {"size": (13, 7), "mode": "bilinear"},
            "bilinear by a factor": {"scale_factor": (1.7, 2.3), "mode": "bilinear"},
            "bilinear to a smaller size": {"size": (4, 3), "mode": "bilinear"},
            "bilinear with aligned corners": {"size": (13, 1), "mode": "bilinear", "align_corners": True},
            "bicubic": {"size": (9, 11), "mode": "bicubic"},
        }.items()
    },
    "resized to its own size": (
        Function(lambda x: torch.relu(F.interpolate(x, (6, 5), mode="bilinear"))),
        (Elementwise,),
    ),
    "channels shuffled": (Function(shuffled), (Conv,)),
    "channels shuffled by torch": (Function(lambda x: F.channel_shuffle(x, 2)), (Conv,)),
    "halves of the channels exchanged": (
        Function(lambda x: torch.cat([part * 2 for part in reversed(x.chunk(2, 1))], 1)),
        (Conv, Conv, Concat),
    ),
    "unequal parts of the channels": (
        Function(lambda x: torch.cat([torch.relu(part) for part in x.split([1, 3], 1)], 1)),
        (Conv, Conv, Concat),
    ),
    "a slice of the channels": (Function(lambda x: x[:, 1:3]), (Conv,)),
    "a slice of everything": (Function(lambda x: torch.relu(x[:, :, :])), (Elementwise,)),
    "linear to one output": (Function(lambda x, fc: fc(x.mean((2, 3))), fc=nn.Linear(4, 1)), (Mean, Conv)),
    "a mean that keeps its dimensions": (Function(lambda x: x.mean((-1, -2), keepdim=True)), (Mean,)),
    "a mean of a permuted map": (Function(lambda x: x.permute(0, 2, 3, 1).mean((1, 2))), (Mean,)),
    "a mean taken twice": (Function(lambda x: x.mean((2, 3), keepdim=True).mean((2, 3))), (Mean,)),
    "squeeze and unsqueeze": (
        Function(lambda x, conv: conv(x.mean((2, 3)).unsqueeze(2).unsqueeze(3)).squeeze(3), conv=nn.Conv2d(4, 3, 1)),
        (Mean, Conv),
    ),
    "number constants": (Function(lambda x: (2 - x * 3) / 4 + 1), (Conv,)),
    "a map and a factor": (Function(lambda x: torch.sub(x, F.silu(x), alpha=2)), (Elementwise, Conv)),
    "layer scale": (
        Function(lambda x, conv, scale: conv(x) * scale, conv=nn.Conv2d(4, 4, 1), scale=torch.randn(4, 1, 1)),
        (Conv,),
    ),
    "layer scale on channels last": (
        Function(
            lambda x, fc, scale: (scale * fc(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2),
            fc=nn.Linear(4, 4),
            scale=torch.randn(4),
        ),
        (Conv,),
    ),
    "a batch norm that nothing precedes": (Function(lambda x, norm: norm(x), norm=nn.BatchNorm2d(4)), (Conv,)),
    "clamps": (Function(lambda x: x.clamp(0, 6) + x.clamp_min(0) + F.relu6(x)), (Elementwise,) * 5),
    "swish by hand": (Function(lambda x: x * torch.sigmoid(x)), (Elementwise,)),
    "concatenation of vectors": (
        Function(lambda x: torch.cat([x.mean((2, 3)), F.relu(x).mean((2, 3))], -1)),
        (Mean, Elementwise, Mean, Concat),
    ),
    "no operation at all": (Function(lambda x: F.dropout(x, training=False).contiguous().clone()), ()),
    "squeeze-excite": (
        Function(
            lambda x, a, b: x * torch.sigmoid(b(F.relu(a(F.adaptive_avg_pool2d(x, 1))))),
            a=nn.Conv2d(4, 2, 1),
            b=nn.Conv2d(2, 4, 1),
        ),
        (Mean, Conv, Conv, Elementwise),
    ),
    "a gate in the epilogue": (
        Function(lambda x, a, b: F.gelu(a(x), approximate="tanh") * b(x), a=nn.Conv2d(4, 4, 1), b=nn.Conv2d(4, 4, 1)),
        (Conv, Conv),
    ),
    "a maximum with its index": (Function(lambda x: F.adaptive_max_pool2d(x, 4, return_indices=True)[0]), (object,)),
}


@pytest.mark.parametrize("name", CASES)
def test_what_torch_computes_is_what_the_graph_computes(name: str) -> None:
    module, kinds = CASES[name]
    torch.manual_seed(1)
    if name == "a batch norm that nothing precedes":
        module.norm.running_mean.uniform_(-1, 1)
        module.norm.running_var.uniform_(0.5, 2)
    graph = graph_of(module, (4, 6, 5))
    if name == "no operation at all":
        assert graph.output == graph.input
    assert len(graph.nodes) == len(kinds)
    assert all(isinstance(node, kind) for node, kind in zip(graph.nodes, kinds, strict=True))


@pytest.mark.parametrize(
    "function",
    [
        lambda x, conv: conv(x).relu_() + 1,
        lambda x, conv: (y := conv(x)).add_(x) * 0.5 + y,
        lambda x, conv: [(y := conv(x)), y.permute(0, 2, 3, 1).mul_(3)][0] + x,
        lambda x, conv: [(y := conv(x)), F.hardswish(y, inplace=True)][0] + y,
        lambda x, conv: [(y := conv(x)), y.clone().relu_()][0] + F.silu(y),
        lambda x, conv: [(y := conv(x)), y.permute(0, 2, 3, 1).contiguous().relu_()][0] * 2,
        lambda x, conv: F.hardtanh(F.silu(conv(x), inplace=True).sub_(1).div_(2), 0, 6, inplace=True),
    ],
)
def test_writing_in_place_is_seen_through_every_view(function: Callable[..., Tensor]) -> None:
    torch.manual_seed(3)
    graph_of(Function(function, conv=nn.Conv2d(4, 4, 3, padding=1)))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: F.softplus(x), r"softplus.*aten\.softplus.*it has .*silu"),
        (lambda x: x.clamp(-1, 1), r"'clamp' clamps to -1, 1"),
        (lambda x: x.permute(0, 2, 3, 1), "result .* is a permuted map"),
        (lambda x: F.max_pool2d(x.permute(0, 2, 3, 1), 2), r"max_pool2d.*needs a map \(B, C, H, W\)"),
        (lambda x: x.mean(2), r"'mean' averages over dimensions \[2\]"),
        (lambda x: x / (x * x), "divides by a value"),
        (lambda x, ones: x * ones, r"combines a map \(4, 6, 5\) with a constant \(6, 5\)"),
        (lambda x: x * x.mean((1,), keepdim=True), "averages over dimensions"),
        (lambda x: torch.cat([x, F.relu(x)], 2), "puts channels and pixels of maps in an order"),
        (lambda x: x.flatten(0, 1), "is a permuted map"),
        (lambda x: x.transpose(0, 1), "is a permuted map"),
        (lambda x: F.relu(torch.roll(x, 1, 0)), "mixes the pictures of a batch"),
        (lambda x: F.relu(F.pad(x, (1, 1), value=2.0)), "pads by .*pads with zeros"),
        (lambda x: F.softmax(x, 1), "softmax over dimension 1.*keys of attention"),
        (lambda x: F.relu(x @ x.transpose(2, 3)), "which is no map"),
        (lambda x: (x @ x.transpose(2, 3)) @ x, "of which no softmax was taken"),
        (lambda x: (x @ x.transpose(2, 3) + x.mean((2, 3), keepdim=True)).softmax(-1) @ x, "computed at run time"),
        (lambda x: torch.einsum("bchw,bcxw->bhx", x, x), "einsum.*products of attention"),
        (lambda x: x / x.norm(dim=1, keepdim=True), "norm of order 2.*last dimension"),
        (lambda x: F.relu(F.normalize(x, dim=-1)), "in an order"),
        (
            lambda x: (y := x[:, :, :4]) / y.norm(dim=-1, keepdim=True).transpose(1, 2),
            "by lengths that are not its own",
        ),
        (lambda x: x.reshape(x.shape[0], 2, 2, 6, 5).transpose(3, 4).flatten(1, 2), "permutes channels in groups"),
        (lambda x: x.reshape(x.shape[0], 2, 2, 6, 5).flatten(2), "reshapes channels in groups"),
        (lambda x: F.relu(x.reshape(x.shape[0], 4, 3, 2, 5)), "in an order"),
        (lambda x: [(part := x.chunk(2, 1)[0]), part.relu_()][0] + part, "some channels of a larger map"),
        (lambda x: F.layer_norm(x, (6, 5)), r"normalises over \[6, 5\]"),
        (lambda x: F.layer_norm(x, (5,)), "normalises over"),
        (lambda x, ones: F.linear(x, ones), "linear layer over part of a map"),
        (lambda x: F.avg_pool2d(x, 2, divisor_override=3), "divisor_override"),
        (lambda x: F.dropout(x, 0.5, training=True), "active dropout"),
        (lambda x: F.conv2d(x, x.mean((2, 3)).mean(0).reshape(1, 4, 1, 1)), "averages|computed at run time"),
        (lambda x: F.adaptive_max_pool2d(x, 4, return_indices=True)[1].float(), "takes result 1"),
    ],
)
def test_what_the_graph_has_not_is_refused_by_name(function: Callable[..., Tensor], message: str) -> None:
    layers = {} if function.__code__.co_argcount == 1 else {"ones": torch.ones(6, 5)}
    with pytest.raises(UserError, match=message):
        read_graph(capture_module(Function(function, **layers), (4, 6, 5), 2))


def test_what_is_computed_from_weights_alone_is_computed_once() -> None:
    """Detection backbones have batch norms that are frozen: products with weights."""

    class Backbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 3, bias=False), FrozenBatchNorm2d(4)
            self.norm.running_var.uniform_(0.5, 2)
            self.norm.running_mean.uniform_(-1, 1)
            self.scale = nn.Parameter(torch.rand(4, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            standard = self.conv.weight - self.conv.weight.mean((1, 2, 3), keepdim=True)
            return torch.relu(self.norm(F.conv2d(x, standard))) * torch.exp(self.scale)

    graph = graph_of(Backbone())
    assert [type(node) for node in graph.nodes] == [Conv, Conv]
    assert graph.nodes[0].layer == "conv"


def test_a_constant_that_is_written_over_is_what_torch_makes_of_it() -> None:
    def written(x: Tensor, table: Tensor) -> Tensor:
        copy = table.clone()
        copy[0] = 3
        return x + copy.reshape(4, 1, 1)

    graph = graph_of(Function(written, table=torch.rand(4)))
    assert [type(node) for node in graph.nodes] == [Conv]


@pytest.mark.parametrize("axis", [2, 3])
def test_a_picture_of_any_size_is_refused(axis: int) -> None:
    batch, length = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("length", min=4, max=64)
    program = torch.export.export(
        nn.Conv2d(3, 4, 1), (torch.zeros(2, 3, 8, 8),), dynamic_shapes=({0: batch, axis: length},)
    )
    with pytest.raises(UserError, match=f"any {('height', 'width')[axis - 2]}.*batch as the only dynamic dimension"):
        capture(program, (3, 8, 8), 1)
