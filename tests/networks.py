"""Small torch networks that the tests of the native backend compile."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import nn

from compile.native.isa import ISAS

RUNNABLE = [name for name, isa in ISAS.items() if isa.runnable]


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
