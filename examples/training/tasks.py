"""What differs between the two trainings: frames, random views, network and loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import detector
import segmenter
from augment import random_light, random_view, warp_boxes, warp_image
from data import FrameSet, load_frames
from edgevision.synthetic import SEGMENTATION_CLASSES
from losses import detection_loss, segmentation_loss

BOX_WEIGHT = 2.0

Image = npt.NDArray[np.uint8]
Target = TypeVar("Target")


class DetectionTask:
    """The detector and its batches: the target is an image's boxes (k, 4) and class ids (k,)."""

    learning_rate = 3e-3
    epochs = 8

    def __init__(self, cache: Path, frame_set: FrameSet, workers: int) -> None:
        self.frames = load_frames(cache, frame_set, detector.INPUT_WH, class_maps=False, workers=workers)
        self.network = detector.Detector()

    def batches(self, count: int, size: int, seed: int) -> Iterator[tuple[Tensor, list[tuple[Tensor, Tensor]]]]:
        yield from _batches(self._view, len(self.frames.images), count, size, seed)

    def loss(self, images: Tensor, targets: list[tuple[Tensor, Tensor]]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            scores, offsets = self.network(images)
        boxes, class_ids = zip(*targets, strict=True)
        score_loss, box_loss = detection_loss(
            scores.float(), offsets.float(), self.network.priors, list(boxes), list(class_ids)
        )
        return score_loss + BOX_WEIGHT * box_loss

    def _view(self, index: int, rng: np.random.Generator) -> tuple[Image, tuple[Tensor, Tensor]]:
        view = random_view(rng, detector.INPUT_WH)
        image = random_light(rng, warp_image(self.frames.images[index], view, labels=False))
        boxes, kept = warp_boxes(self.frames.boxes[index], view, detector.INPUT_WH)
        return image, (torch.from_numpy(boxes[kept]), torch.from_numpy(self.frames.class_ids[index][kept]))


class SegmentationTask:
    """The segmenter and its batches: the target is the class map (288, 512)."""

    learning_rate = 3e-3
    epochs = 5

    def __init__(self, cache: Path, frame_set: FrameSet, workers: int) -> None:
        frames = load_frames(cache, frame_set, segmenter.INPUT_WH, class_maps=True, workers=workers)
        assert frames.class_maps is not None
        self.images, self.class_maps = frames.images, frames.class_maps
        self.network = segmenter.Segmenter()
        self.class_weights = class_weights(frames.class_maps)

    def batches(self, count: int, size: int, seed: int) -> Iterator[tuple[Tensor, list[Tensor]]]:
        yield from _batches(self._view, len(self.images), count, size, seed)

    def loss(self, images: Tensor, targets: list[Tensor]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.network(images)
        # Every other row and column, from a random corner, is enough to learn from and a quarter of the work.
        top, left = torch.randint(2, (2,)).tolist()
        class_maps = torch.stack(targets)[:, top::2, left::2].long()
        return segmentation_loss(logits[:, :, top::2, left::2], class_maps, self.class_weights)

    def _view(self, index: int, rng: np.random.Generator) -> tuple[Image, Tensor]:
        view = random_view(rng, segmenter.INPUT_WH)
        image = random_light(rng, warp_image(self.images[index], view, labels=False))
        return image, torch.from_numpy(warp_image(self.class_maps[index], view, labels=True))


def class_weights(class_maps: Image) -> Tensor:
    """Weights (c,) falling with the root of a class's share of the pixels, of mean 1 over the pixels."""
    share = np.bincount(class_maps[::7].ravel(), minlength=len(SEGMENTATION_CLASSES)) / class_maps[::7].size
    weights = np.maximum(share, 1e-5) ** -0.5
    return torch.from_numpy(weights / (weights * share).sum()).float()


def _batches(
    view: Callable[[int, np.random.Generator], tuple[Image, Target]], frames: int, count: int, size: int, seed: int
) -> Iterator[tuple[Tensor, list[Target]]]:
    """`count` batches of `size` random views as (images (b, 3, h, w) float RGB in -1..1, targets)."""
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(frames) for _ in range(-(-count * size // frames))])
    for start in range(0, count * size, size):
        images, targets = zip(*(view(int(index), rng) for index in order[start : start + size]), strict=True)
        rgb = torch.from_numpy(np.stack(images)[..., ::-1].copy())
        yield (rgb.float() - 127.5).div_(127.5).permute(0, 3, 1, 2), list(targets)
