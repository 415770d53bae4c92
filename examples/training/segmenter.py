"""The aerial segmenter: Fast-SCNN (arXiv 1902.04502) with a finer decoder, 512x288 (the frame's own 16:9).

As in the paper, one trunk learns to downsample, a deep branch at low resolution sees the whole picture (pyramid
pooling), and its features are fused with the trunk's. The paper fuses at 1/8; people are a dozen pixels of the
frame, so two more fusions bring the logits to 1/2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgevision.synthetic import SEGMENTATION_CLASSES
from layers import conv, depthwise, separable

INPUT_WH = (512, 288)


class Bottleneck(nn.Module):
    """Inverted residual with a linear end (MobileNetV2, arXiv 1801.04381)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, expansion: int = 4) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.body = nn.Sequential(conv(inputs, hidden, 1), depthwise(hidden, stride), *_linear(hidden, outputs))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, features: Tensor) -> Tensor:
        output: Tensor = self.body(features)
        return features + output if self.residual else output


class PyramidPooling(nn.Module):
    """Means over the whole map, its halves and 3x4 parts of it, beside the map itself (arXiv 1612.01105)."""

    def __init__(self, channels: int, map_hw: tuple[int, int]) -> None:
        super().__init__()
        height, width = map_hw
        # Fixed windows instead of adaptive pooling: every runtime has AveragePool.
        self.windows = [(height, width), (height, width // 2), (height // 3, width // 4)]
        self.squeeze = nn.ModuleList(conv(channels, channels // 4, 1) for _ in self.windows)
        self.join = conv(channels + channels // 4 * len(self.windows), channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        parts = [features]
        for window, squeeze in zip(self.windows, self.squeeze, strict=True):
            means = squeeze(F.avg_pool2d(features, window))
            parts.append(F.interpolate(means, scale_factor=[float(side) for side in window], mode="nearest"))
        joined: Tensor = self.join(torch.cat(parts, dim=1))
        return joined


class Fusion(nn.Module):
    """Coarse features, enlarged, plus finer ones: each through a pointwise convolution first, where it is cheap."""

    def __init__(self, coarse: int, fine: int, outputs: int, scale: int) -> None:
        super().__init__()
        self.coarse = nn.Sequential(*_linear(coarse, outputs), nn.Upsample(scale_factor=scale, mode="nearest"))
        self.fine = nn.Sequential(*_linear(fine, outputs))
        self.activation = nn.ReLU6(inplace=True)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        fused: Tensor = self.activation(self.coarse(coarse) + self.fine(fine))
        return fused


class Segmenter(nn.Module):
    """Images (b, 3, 288, 512) in -1..1 -> logits (b, 7, 288, 512), enlarged bilinearly from 1/2."""

    def __init__(self) -> None:
        super().__init__()
        width, height = INPUT_WH
        self.stem = conv(3, 16, 3, 2)
        self.quarter = nn.Sequential(conv(16, 32, 3, 2), separable(32, 48))
        self.eighth = separable(48, 64, 2)
        self.deep = nn.Sequential(
            Bottleneck(64, 64, 2),
            Bottleneck(64, 64),
            Bottleneck(64, 64),
            Bottleneck(64, 96, 2),
            Bottleneck(96, 96),
            Bottleneck(96, 128),
            PyramidPooling(128, (height // 32, width // 32)),
        )
        self.fuse_eighth = Fusion(128, 64, 128, 4)
        self.refine_eighth = separable(128, 128)
        self.fuse_quarter = Fusion(128, 48, 64, 2)
        self.refine_quarter = nn.Sequential(separable(64, 64), separable(64, 64))
        self.fuse_half = Fusion(64, 16, 32, 2)
        self.classify = nn.Sequential(separable(32, 32), nn.Conv2d(32, len(SEGMENTATION_CLASSES), 1))

    def forward(self, images: Tensor) -> Tensor:
        half = self.stem(images)
        quarter = self.quarter(half)
        eighth = self.eighth(quarter)
        features = self.refine_eighth(self.fuse_eighth(self.deep(eighth), eighth))
        features = self.refine_quarter(self.fuse_quarter(features, quarter))
        logits = self.classify(self.fuse_half(features, half))
        if logits.dtype == torch.bfloat16:  # under autocast: enlarged that coarsely, scores would tie
            logits = logits.float()
        return F.interpolate(logits, scale_factor=2.0, mode="bilinear", align_corners=False)


def _linear(inputs: int, outputs: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
