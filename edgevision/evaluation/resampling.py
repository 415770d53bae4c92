"""How average precision depends on the choice of pictures: the bootstrap (Efron, Annals of Statistics 7, 1979) without
matching anew.

COCO's protocol matches within a picture, so that a picture drawn twice just counts twice. Every number that average
precision is made of, at any place in the ranking, is then a sum over pictures: one product of matrices has it for all
resamples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_MATCHES = ("dtMatches", "dtIgnore")


def resampled_precision(evaluation: Any, draws: NDArray[np.int64]) -> NDArray[np.float64]:
    """COCO's average precision over all IoUs and classes, as if picture p were there `draws[i, p]` times.

    As pycocotools has it for pictures repeated in their order; of boxes of one class with the same confidence in the
    same picture, its figure takes the copies in turn and this one side by side.

    Args:
        evaluation: a COCOeval after `evaluate()`.
        draws: (n, pictures) times.

    Returns:
        (n,) average precisions, each over the classes that its pictures hold; NaN where they hold no object.
    """
    params = evaluation.params
    pictures, areas = len(params.imgIds), len(params.areaRng)
    total, classes = np.zeros(len(draws)), np.zeros(len(draws))
    times = draws.astype(np.float64)  # integers would be multiplied without BLAS
    for k in range(len(params.catIds)):
        start = k * areas * pictures  # over class, area range, picture; the first area range is "all"
        entries = list(enumerate(evaluation.evalImgs[start : start + pictures]))
        held = [(picture, entry) for picture, entry in entries if entry is not None]
        objects = times[:, [p for p, _ in held]] @ [np.count_nonzero(entry["gtIgnore"] == 0) for _, entry in held]
        present = objects > 0
        if present.any():
            total[present] += _of_class(held, times[present], objects[present], params.recThrs)
            classes += present
    mean = np.full(len(draws), np.nan)
    np.divide(total, classes, out=mean, where=classes > 0)
    return mean


def _of_class(
    held: list[tuple[int, Any]], times: NDArray[np.float64], objects: NDArray[np.float64], levels: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(n,) of one class, the mean over IoUs.

    Args:
        held: (picture, what COCOeval found in it).
        times, objects: of each resample; the latter (n,), not 0.
        levels: of recall, at which precision is read.
    """
    rank = np.argsort(-np.concatenate([entry["dtScores"] for _, entry in held]), kind="stable")
    picture = np.concatenate([np.full(len(entry["dtScores"]), p) for p, entry in held])[rank]
    owner = np.arange(times.shape[1])[:, None] == picture
    hit, ignored = (np.concatenate([entry[key] for _, entry in held], axis=1)[:, rank] > 0 for key in _MATCHES)
    found = np.zeros(len(times))
    for right, counted in zip(hit & ~ignored, ~ignored, strict=True):
        # Recall rises, and precision is highest, where an object is found: nothing else is looked at.
        places = np.flatnonzero(right)
        hits, reported = (times @ np.cumsum(owner & those, axis=1)[:, places] for those in (right, counted))
        precision = hits / (reported + np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        reached = np.searchsorted(levels, hits / objects[:, None], side="right")
        found += (envelope * np.diff(reached, axis=1, prepend=0)).sum(axis=1) / len(levels)
    return found / len(hit)
