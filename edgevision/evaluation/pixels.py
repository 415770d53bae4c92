"""Metrics of semantic segmentation: one confusion matrix, summed over pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevision.errors import DatasetError
from edgevision.evaluation.classes import ClassMatch
from edgevision.evaluation.datasets import IGNORE


def confusion(truth: NDArray[Any], predicted: NDArray[Any], match: ClassMatch) -> NDArray[np.int64]:
    """Pixels of one picture by (true class, predicted class): (n, n + 1) for the data set's n classes.

    Args:
        truth: (h, w) the data set's class indices, IGNORE = not judged.
        predicted: (h, w) the model's class ids. Those that the data set lacks are counted in the last column.

    Raises:
        DatasetError: the sizes differ, or the mask holds a value that is no class.
    """
    if truth.shape != predicted.shape:
        raise DatasetError(f"the mask has (h, w) = {truth.shape}, its picture {predicted.shape}; they must be equal")
    n = len(match.names)
    judged = truth != IGNORE
    rows = truth[judged].astype(np.int64)
    if rows.size and int(rows.max()) >= n:
        strange = sorted(set(np.unique(rows).tolist()) - set(range(n)))
        raise DatasetError(
            f"the mask holds the values {strange[:5]}, but the classes are 0..{n - 1} and {IGNORE} for pixels not "
            "judged; name the data set's classes with masks:IMAGES:MASKS:CLASSES"
        )
    columns = np.where(match.to_dataset < 0, n, match.to_dataset)[predicted[judged]]
    return np.bincount(rows * (n + 1) + columns, minlength=n * (n + 1)).reshape(n, n + 1)


def pixel_metrics(matrix: NDArray[np.int64], names: Sequence[str], judged: Sequence[int]) -> dict[str, Any]:
    """Figures from a summed confusion matrix.

    Returns:
        `miou`: mean intersection over union of the judged classes present in the truth; `pixel_accuracy`; and
        `per_class` {name: {`iou`, `pixels`}} of those classes.

    Raises:
        DatasetError: the truth holds no pixel of a judged class.
    """
    matrix = matrix[list(judged)]
    hit = matrix[np.arange(len(judged)), list(judged)]
    pixels = matrix.sum(axis=1)
    union = pixels + matrix.sum(axis=0)[list(judged)] - hit
    if not pixels.any():
        raise DatasetError("the masks have no pixel of the model's classes: mIoU is not defined")
    per_class = {
        names[index]: {"iou": float(hit[k] / union[k]), "pixels": int(pixels[k])}
        for k, index in enumerate(judged)
        if pixels[k]
    }
    return {
        "miou": float(np.mean([c["iou"] for c in per_class.values()])),
        "pixel_accuracy": float(hit.sum() / pixels.sum()),
        "per_class": per_class,
    }
