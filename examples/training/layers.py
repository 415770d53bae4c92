"""The building blocks of both networks. Convolutions end in ReLU6: a bounded range keeps INT8 steps small."""

from __future__ import annotations

import torch.nn.functional as functional
from torch import Tensor, nn


class Depthwise(nn.Conv2d):
    """A depthwise convolution with padding that keeps the size, then every `stride`-th row and column.

    In training it computes them all and drops the others: the same values, and torch's backward pass of a strided
    depthwise convolution on a CPU takes two to ten times as long.
    """

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        if not self.training:
            return super().forward(maps)
        every = functional.conv2d(maps, self.weight, None, 1, self.padding, 1, self.groups)
        return every[:, :, :: self.stride[0], :: self.stride[1]]


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU6."""
    return _normalised(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False))


def depthwise(channels: int, stride: int = 1) -> nn.Sequential:
    """Depthwise 3x3 convolution, batch norm, ReLU6."""
    return _normalised(Depthwise(channels, 3, stride))


def separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Depthwise 3x3 then pointwise convolution (MobileNet, arXiv 1704.04861)."""
    return nn.Sequential(depthwise(inputs, stride), conv(inputs, outputs, 1))


def _normalised(layer: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU6(inplace=True))
