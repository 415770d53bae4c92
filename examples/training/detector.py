"""The aerial detector: single-shot heads on four maps of a mostly depthwise-separable backbone, 320x320.

Single Shot MultiBox Detector (arXiv 1512.02325) on a MobileNet-like backbone (arXiv 1704.04861). The objects are
small from the air, so most of the depth and most of the priors sit on the finest head map (stride 8).

Where maps are large and channels few, convolutions are dense, as in MobileDets (arXiv 2004.14525): integer units gain
little on a depthwise convolution, which moves as much memory as it computes, and nearly four-fold on a dense one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgevision.synthetic import DETECTION_CLASSES
from layers import conv, depthwise, separable
from metadata import VARIANCES

INPUT_WH = (320, 320)
STRIDES = (8, 16, 32, 64)
LARGEST_LOG_SCALE = 4.135  # log(1000 / 16): torchvision's limit on the decoded width and height

# Prior widths and heights in input pixels for each stride: k-means (by IoU) of the training boxes, see priors.py.
PRIOR_SIZES: tuple[tuple[tuple[float, float], ...], ...] = (
    ((10, 12), (8, 19), (14, 14), (12, 18)),
    ((14, 24), (15, 43), (26, 28), (19, 50)),
    ((28, 43), (21, 73)),
    ((39, 64),),
)


def make_priors(
    input_wh: tuple[int, int] = INPUT_WH,
    strides: Sequence[int] = STRIDES,
    sizes: Sequence[Sequence[tuple[float, float]]] = PRIOR_SIZES,
) -> Tensor:
    """Priors (n, 4) as cx, cy, w, h in 0..1: map by map, row by row, cell by cell, then size by size."""
    width, height = input_wh
    maps = []
    for stride, shapes in zip(strides, sizes, strict=True):
        ys = (torch.arange(height // stride) + 0.5) * stride / height
        xs = (torch.arange(width // stride) + 0.5) * stride / width
        cy, cx = torch.meshgrid(ys, xs, indexing="ij")
        centres = torch.stack([cx, cy], dim=-1)[:, :, None].expand(-1, -1, len(shapes), -1)
        extents = (torch.tensor(shapes) / torch.tensor([width, height])).expand_as(centres)
        maps.append(torch.cat([centres, extents], dim=-1).reshape(-1, 4))
    return torch.cat(maps)


def encode(boxes: Tensor, priors: Tensor) -> Tensor:
    """Offsets (…, 4) that decode to `boxes` (…, 4: xyxy in 0..1) on `priors` (cx, cy, w, h)."""
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    extents = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-4)
    offsets = torch.cat([(centres - priors[..., :2]) / priors[..., 2:], (extents / priors[..., 2:]).log()], dim=-1)
    return offsets / offsets.new_tensor(VARIANCES)


def decode(offsets: Tensor, priors: Tensor) -> Tensor:
    """Boxes (…, 4: xyxy in 0..1), the inverse of `encode` (torchvision's BoxCoder with weights 10, 10, 5, 5)."""
    scaled = offsets * offsets.new_tensor(VARIANCES)
    centres = scaled[..., :2] * priors[..., 2:] + priors[..., :2]
    halves = scaled[..., 2:].clamp(max=LARGEST_LOG_SCALE).exp() * priors[..., 2:] / 2
    return torch.cat([centres - halves, centres + halves], dim=-1)


class Detector(nn.Module):
    """Images (b, 3, 320, 320) in -1..1 -> scores (b, n, 4) raw logits for sigmoid, and boxes (b, n, 4) raw offsets."""

    priors: Tensor

    def __init__(self) -> None:
        super().__init__()
        classes = len(DETECTION_CLASSES)
        stem = nn.Sequential(conv(3, 16, 3, 2), conv(16, 48, 3, 2), conv(48, 128, 3, 2))
        self.stages = nn.ModuleList(
            [
                nn.Sequential(stem, *(separable(128, 128) for _ in range(3))),
                nn.Sequential(separable(128, 192, 2), separable(192, 192)),
                nn.Sequential(separable(192, 256, 2), separable(256, 256)),
                nn.Sequential(separable(256, 256, 2)),
            ]
        )
        widths = (128, 192, 256, 256)
        counts = [len(sizes) for sizes in PRIOR_SIZES]
        # What looks around before scores and boxes are read off; both share it.
        self.contexts = nn.ModuleList(depthwise(width) for width in widths)
        self.score_heads = nn.ModuleList(nn.Conv2d(w, n * classes, 1) for w, n in zip(widths, counts, strict=True))
        self.box_heads = nn.ModuleList(nn.Conv2d(w, n * 4, 1) for w, n in zip(widths, counts, strict=True))
        for head in self.score_heads:
            # Nearly every prior is background: start there, or the first steps are spent unlearning noise.
            nn.init.constant_(head.bias, -4.0)  # type: ignore[arg-type]
        self.register_buffer("priors", make_priors(), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        scores, boxes = [], []
        features = images
        for stage, context, score_head, box_head in zip(
            self.stages, self.contexts, self.score_heads, self.box_heads, strict=True
        ):
            features = stage(features)
            seen = context(features)
            scores.append(_rows(score_head(seen), len(DETECTION_CLASSES)))
            boxes.append(_rows(box_head(seen), 4))
        return torch.cat(scores, dim=1), torch.cat(boxes, dim=1)


def _rows(maps: Tensor, columns: int) -> Tensor:
    """(b, a * columns, h, w) -> (b, h * w * a, columns), in the order of `make_priors`."""
    return maps.permute(0, 2, 3, 1).reshape(maps.shape[0], -1, columns)
