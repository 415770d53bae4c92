"""What is judged: the results of one run over a data set, as the figures of its task."""

from __future__ import annotations

import threading
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgevision.errors import DatasetError, UsageError
from edgevision.evaluation.boxes import Found, coco_metrics, mask_metrics, run_cocoeval, voc_average_precision
from edgevision.evaluation.classes import ClassMatch, match_classes
from edgevision.evaluation.datasets import BoxDataset, Dataset, MaskDataset, PictureSet
from edgevision.evaluation.masks import read_mask
from edgevision.evaluation.outlines import encode_masks
from edgevision.evaluation.pixels import confusion, pixel_metrics
from edgevision.evaluation.resampling import resampled_precision
from edgevision.manifest import Manifest
from edgevision.optional import require
from edgevision.results import Detections, Result, SegmentationMap

CONFIDENCE_FLOOR = 0.01
"""Least confidence of the boxes that enter average precision."""
_BOXES_ONLY = (
    "masks are not judged: {} of the labelled objects have no outline; give annotations with a `segmentation` each and "
    "the pictures' sizes"
)


class Score(Protocol):
    def add(self, index: int, result: Result) -> None:
        """Take one picture's result; called from several threads, once per picture."""
        ...

    def metrics(self) -> dict[str, Any]: ...

    def resampled(self) -> NDArray[np.float64]:
        """(n,) `map_50_95` or `miou` of each of the n draws that `Judge.score` was given; NaN where a draw's pictures
        hold nothing to find."""
        ...


class _BoxScore:
    def __init__(
        self, dataset: BoxDataset, match: ClassMatch, threshold: float, masks: bool, draws: NDArray[np.int64]
    ) -> None:
        require("pycocotools.cocoeval", "COCO average precision")  # now, not after the last picture
        self._kind, self._truth, self._masks = dataset.kind, dataset.truth[: draws.shape[1]], masks
        self._draws = draws
        self._match, self._threshold = match, threshold
        self._found: dict[int, Found] = {}

    def add(self, index: int, result: Result) -> None:
        assert isinstance(result, Detections)
        class_id = self._match.to_dataset[result.class_id]
        known = class_id >= 0
        masks: list[dict[str, Any]] = []
        if self._masks:
            assert result.mask is not None
            masks = encode_masks(result.mask[known])
        self._found[index] = Found(result.xyxy[known], result.confidence[known], class_id[known], masks)

    def metrics(self) -> dict[str, Any]:
        found, match = self._in_order(), self._match
        metrics = coco_metrics(self._truth, found, match.names, match.judged, self._threshold)
        if self._masks:
            metrics |= mask_metrics(self._truth, found, match.judged)
        if self._kind == "voc":
            precisions = [voc_average_precision(self._truth, found, index) for index in match.judged]
            metrics["voc_ap_50"] = float(np.nanmean(precisions))
        return metrics

    def resampled(self) -> NDArray[np.float64]:
        return resampled_precision(run_cocoeval(self._truth, self._in_order(), self._match.judged), self._draws)

    def _in_order(self) -> list[Found]:
        return [self._found[i] for i in range(len(self._truth))]


class _PixelScore:
    def __init__(self, dataset: MaskDataset, match: ClassMatch, draws: NDArray[np.int64]) -> None:
        self._masks, self._match = dataset.masks, match
        shape = (len(match.names), len(match.names) + 1)
        self._matrix, self._draws = np.zeros(shape, np.int64), draws
        self._resampled = np.zeros((len(draws), *shape), np.int64)
        self._lock = threading.Lock()

    def add(self, index: int, result: Result) -> None:
        assert isinstance(result, SegmentationMap)
        try:
            counts = confusion(read_mask(self._masks[index]), result.class_map, self._match)
        except DatasetError as error:
            raise DatasetError(f"{self._masks[index].name}: {error}") from error
        with self._lock:
            self._matrix += counts
            self._resampled += self._draws[:, index, None, None] * counts

    def metrics(self) -> dict[str, Any]:
        return self._metrics(self._matrix)

    def resampled(self) -> NDArray[np.float64]:
        judged = list(self._match.judged)
        return np.array([self._metrics(m)["miou"] if m[judged].any() else np.nan for m in self._resampled])

    def _metrics(self, matrix: NDArray[np.int64]) -> dict[str, Any]:
        return pixel_metrics(matrix, self._match.names, self._match.judged)


class _NoScore:
    def add(self, index: int, result: Result) -> None:
        """Nothing to judge without labels."""

    def metrics(self) -> dict[str, Any]:
        return {}

    def resampled(self) -> NDArray[np.float64]:
        return np.zeros(0)


class Judge:
    """A bundle's results against a data set, or against nothing where the pictures have no labels.

    Attributes:
        pictures: those that are used.
        threshold: confidence at which recall, precision and agreement are reported; None for tasks without.
        floor: least confidence that a model must report.
        warnings: what a reader of the figures should know.
    """

    def __init__(
        self, manifest: Manifest, dataset: Dataset | PictureSet, limit: int | None, confidence: float | None
    ) -> None:
        """Raises:
        DatasetError: the data set does not fit the model.
        UsageError: an option is out of range.
        """
        if (limit is not None and limit < 1) or not 0 <= (confidence or 0) <= 1:
            raise UsageError(f"limit is at least 1 and confidence is in 0..1, got {limit}, {confidence}")
        _check_task(manifest, dataset)
        self._dataset = dataset
        self._match: ClassMatch | None = None
        if not isinstance(dataset, PictureSet):
            self._match = match_classes(_names(manifest), len(manifest.labels), dataset.classes)
        self.pictures = dataset.pictures[:limit]
        self.threshold = None
        if manifest.nms is not None:
            self.threshold = manifest.nms.confidence if confidence is None else confidence
        self.floor = None if self.threshold is None else min(CONFIDENCE_FLOOR, self.threshold)
        without = _without_outline(dataset, len(self.pictures))
        instance = manifest.task == "instance" and isinstance(dataset, BoxDataset)
        self._masks = instance and not without
        self.warnings = [
            *dataset.warnings,
            *(() if self._match is None else self._match.warnings),
            *([_BOXES_ONLY.format(without)] if instance and without else []),
        ]

    def score(self, draws: NDArray[np.int64] | None = None) -> Score:
        """For the results of one run.

        Args:
            draws: (n, pictures) how often each picture counts in each of n resamples; None: there are no resamples.

        Raises:
            UsageError: `draws` is of another number of pictures.
        """
        if self._match is None:
            return _NoScore()
        count = len(self.pictures)
        draws = np.zeros((0, count), np.int64) if draws is None else draws
        if draws.shape[1:] != (count,):
            raise UsageError(f"resamples draw from {count} pictures, got draws of shape {draws.shape}")
        if isinstance(self._dataset, MaskDataset):
            return _PixelScore(self._dataset, self._match, draws)
        assert isinstance(self._dataset, BoxDataset)
        assert self.threshold is not None
        return _BoxScore(self._dataset, self._match, self.threshold, self._masks, draws)


def _without_outline(dataset: Dataset | PictureSet, count: int) -> int:
    """How many of the first pictures' objects have none that masks could be compared with."""
    if not isinstance(dataset, BoxDataset):
        return 0
    return sum(len(t.xyxy) - sum(outline is not None for outline in t.outlines) for t in dataset.truth[:count])


def _names(manifest: Manifest) -> tuple[str, ...]:
    """The class names; none where they are but the class numbers."""
    return () if manifest.labels == tuple(map(str, range(len(manifest.labels)))) else manifest.labels


def _check_task(manifest: Manifest, dataset: Dataset | PictureSet) -> None:
    if isinstance(dataset, PictureSet):
        return
    if manifest.task == "classification":
        raise DatasetError(
            f"{manifest.name} does classification, for which labels have no measure yet; edgevision eval --images "
            "FOLDER measures how far its graphs agree with the float one"
        )
    boxes, masks = (BoxDataset, "boxes: coco: or voc:"), (MaskDataset, "class masks: masks:")
    kind, wanted = boxes if manifest.nms is not None else masks
    if not isinstance(dataset, kind):
        raise DatasetError(f"{manifest.name} does {manifest.task}; give a data set with {wanted}")
