"""Small torch networks that the tests of the native backend compile."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import nn

from compile.native.isa import HALVES, ISAS, Isa

RUNNABLE = [name for name, isa in ISAS.items() if isa.runnable]
HALF = [name for name, isa in HALVES.items() if isa.runnable]
EVERY: list[Isa] = [isa for isa in (*ISAS.values(), *HALVES.values()) if isa.runnable]
"""The instruction sets of this machine, in float32 and in half precision."""
NO_HALF = "this processor does not compute in half precision"


def digits(isa: Isa) -> float:
    """Relative error that rounding may make of a network of a few layers; a wrong tap makes far more."""
    return 1e-5 if isa.dtype == "float32" else 2e-2


def title(parameter: object) -> str | None:
    """The name of a test's parameter, where it is an instruction set."""
    if not isinstance(parameter, Isa):
        return None
    return parameter.name if parameter.dtype == "float32" else f"{parameter.name}-{parameter.dtype}"


class Residual(nn.Module):
    """Two convolutions and a shortcut, the block of a ResNet."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        plain = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if plain else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def small_network(channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        Residual(8, 8, 1),
        Residual(8, 12, 2),
        Residual(12, 20, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(20, 7),
    )


class EveryOperator(nn.Module):
    """Every operator of the engine that is no plain convolution: parts of channels, shuffles, sizes, norms, pools."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 12, 3, padding=1)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.dense1, self.dense2 = nn.Conv2d(12, 5, 3, padding=1), nn.Conv2d(17, 7, 1)
        self.up = nn.Conv2d(24, 12, 3, stride=2, padding=2, dilation=2)
        self.norm, self.wide, self.narrow = nn.LayerNorm(12), nn.Linear(12, 20), nn.Linear(20, 12)
        self.scale = nn.Parameter(torch.rand(12, 1, 1) + 0.5)
        self.squeeze, self.excite = nn.Conv2d(12, 5, 1), nn.Conv2d(5, 12, 1)
        self.last = nn.Linear(12 * 6, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.hardswish(self.first(x))
        # what reads a shuffle or a part is no convolution that could take it into its weights
        kept, worked = F.max_pool2d(F.channel_shuffle(x, 3), 3, 1, 1).chunk(2, 1)
        x = torch.cat([kept, F.silu(self.depthwise(worked))], 1) + F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        grown = torch.cat([x, self.dense1(x)], 1)  # the maps of a dense block lie in one
        grown = torch.cat([grown, self.dense2(grown)], 1)
        x = self.up(F.relu6(F.interpolate(grown, scale_factor=2.0, mode="bicubic")))
        x = F.interpolate(F.interpolate(x, (9, 10), mode="bilinear"), (7, 12), mode="nearest")
        token = self.narrow(F.gelu(self.wide(self.norm(x.permute(0, 2, 3, 1))))).permute(0, 3, 1, 2)
        x = x + token * (2 * self.scale.exp())  # the factor is folded into one constant
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        x = F.adaptive_avg_pool2d(x, (3, 2)) + F.adaptive_max_pool2d(x, (3, 2))
        return self.last(torch.flatten(F.hardsigmoid(x), 1))


class OneConv(nn.Module):
    """A convolution between an input that needs a relayout and an activation."""

    def __init__(self, conv: nn.Conv2d, first: nn.Conv2d, act: nn.Module) -> None:
        super().__init__()
        self.first, self.conv, self.act = first, conv, act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.conv(self.first(x)))


def windows(draw: st.DrawFn) -> tuple[tuple[tuple[int, int], ...], tuple[int, int]]:
    """Kernel, stride, padding and dilation of a convolution, and the size of a picture that it fits."""
    kernel = (draw(st.integers(1, 5)), draw(st.integers(1, 4)))
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 2)))
    padding = (draw(st.integers(0, kernel[0] // 2)), draw(st.integers(0, kernel[1] // 2)))
    dilation = (draw(st.integers(1, 2)), 1)
    reach = dilation[0] * (kernel[0] - 1) + 1 - 2 * padding[0], kernel[1] - 2 * padding[1]
    size = draw(st.integers(max(1, reach[0]), 20)), draw(st.integers(max(1, reach[1]), 20))
    return (kernel, stride, padding, dilation), size


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, int, int], int, float, int]:
    """A module, its picture's shape, a batch size, a density, and how many output channels share their zeros."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 4]))
    inputs, outputs = groups * draw(st.integers(1, 6)), groups * draw(st.integers(1, 9))
    window, size = windows(draw)
    torch.manual_seed(draw(st.integers(0, 1000)))
    conv = nn.Conv2d(inputs, outputs, *window, groups, bias=draw(st.booleans()))
    first = nn.Conv2d(inputs, inputs, 1)
    act = draw(st.sampled_from([nn.Identity(), nn.ReLU(), nn.ReLU6()]))
    return (
        OneConv(conv, first, act),
        (inputs, *size),
        draw(st.sampled_from([1, 2, 5, 16])),
        draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])),
        draw(st.sampled_from([1, 4])),
    )
