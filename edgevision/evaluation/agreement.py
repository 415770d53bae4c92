"""How far one graph of a bundle agrees with another, picture by picture. Not accuracy: both may be wrong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgevision.geometry import box_iou
from edgevision.results import Classification, Detections, Result, SegmentationMap

BINS = 20
"""Of the score histograms, over 0..1."""
_SEEN = 0.5  # confidence from which the float model's keypoints are compared
_AROUND = np.linspace(-0.1, 0.1, 21)  # thresholds beside the one that is deployed

Pairs = list[tuple[int, int]]


@dataclass(frozen=True)
class BoxLikeness:
    """Of two sets of boxes.

    Attributes:
        boxes: how many reach the threshold, in the reference and in the other.
        matched: (same class, one to one) of these, by least IoU.
        around: (3, n) at n thresholds around: pairs at IoU 0.5 that both graphs have, boxes in the reference, in the
            other.
        scores: (k, 2) of the reference's boxes at the threshold and of the boxes at IoU 0.5 to them, however weak.
        mask_iou, keypoint_px, keypoint_share: of these pairs; distances as pixels and as shares of the box's diagonal.
        difference: 0 where the two are equal; pictures are ranked by it.
        remark: the difference in words.
    """

    boxes: tuple[int, int]
    matched: dict[float, int]
    around: NDArray[np.int64]
    scores: NDArray[np.float64]
    mask_iou: list[float]
    keypoint_px: list[float]
    keypoint_share: list[float]
    difference: float
    remark: str


@dataclass(frozen=True)
class MapLikeness:
    """Of two class maps.

    Attributes:
        counts: (3, n) pixels per class, where both have it, in the reference, in the other.
        same: share of the pixels that are equal.
    """

    counts: NDArray[np.int64]
    same: float
    difference: float
    remark: str


@dataclass(frozen=True)
class ClassLikeness:
    """Of two classifications: whether the best class is the same, how the score of the reference's best class moved,
    and the boxes' IoU."""

    same: bool
    shift: float
    box_iou: float | None
    difference: float
    remark: str


Likeness: TypeAlias = BoxLikeness | MapLikeness | ClassLikeness
"""What one picture's two results have in common."""


def compare_results(reference: Result, other: Result, threshold: float | None) -> Likeness:
    """Compare what two graphs say about one picture; boxes at confidence `threshold`."""
    if isinstance(reference, Detections):
        assert isinstance(other, Detections)
        assert threshold is not None
        return _boxes(reference, other, threshold)
    if isinstance(reference, SegmentationMap):
        assert isinstance(other, SegmentationMap)
        return _maps(reference.class_map, other.class_map)
    assert isinstance(other, Classification)
    return _classes(reference, other)


def _boxes(reference: Detections, other: Detections, threshold: float) -> BoxLikeness:
    strong, strong_other = (r[r.confidence >= threshold] for r in (reference, other))
    matched = {iou: match_boxes(strong, strong_other, iou) for iou in (0.5, 0.7)}
    pairs = match_boxes(strong, other, 0.5)
    mine, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    scores = np.stack([strong.confidence[mine], other.confidence[theirs]], axis=1).astype(np.float64)
    single = [
        np.delete(side.confidence, [pair[i] for pair in matched[0.5]]) for i, side in enumerate((strong, strong_other))
    ]
    distances = _keypoint_distances(strong, other, pairs)
    diagonals = np.hypot(*(strong.xyxy[:, 2:] - strong.xyxy[:, :2]).T)
    shift = f", scores {np.diff(scores).mean():+.3f}" if len(pairs) else ""
    return BoxLikeness(
        (len(strong), len(strong_other)),
        {iou: len(found) for iou, found in matched.items()},
        _around(reference, other, threshold),
        scores,
        [_mask_iou(strong, other, pair) for pair in pairs] if reference.mask is not None else [],
        [float(d) for _, row in distances for d in row],
        [float(d) / max(float(diagonals[a]), 1.0) for a, row in distances for d in row],
        float(sum(s.sum() for s in single) + np.abs(np.diff(scores)).sum()),
        f"{len(single[0])} missing, {len(single[1])} extra{shift}",
    )


def _around(reference: Detections, other: Detections, threshold: float) -> NDArray[np.int64]:
    """Of `BoxLikeness.around`. Paired once, at the lowest threshold."""
    thresholds = threshold + _AROUND
    one, two = (r[r.confidence >= thresholds[0]] for r in (reference, other))
    pairs = [min(one.confidence[a], two.confidence[b]) for a, b in match_boxes(one, two, 0.5)]
    scores = (np.array(pairs), one.confidence, two.confidence)
    return np.array([[(found >= t).sum() for t in thresholds] for found in scores], np.int64)


def match_boxes(reference: Detections, other: Detections, least_iou: float) -> Pairs:
    """Pairs (index, index) of boxes of one class that overlap by `least_iou` or more, one to one: the reference's boxes
    choose in order of confidence, each the one that overlaps most."""
    iou = box_iou(reference.xyxy, other.xyxy) * (reference.class_id[:, None] == other.class_id[None])
    pairs: Pairs = []
    if not iou.size:
        return pairs
    for index in np.argsort(-reference.confidence, kind="stable").tolist():
        best = int(iou[index].argmax())
        if iou[index, best] >= least_iou:
            pairs.append((index, best))
            iou[:, best] = 0
    return pairs


def _mask_iou(reference: Detections, other: Detections, pair: tuple[int, int]) -> float:
    assert reference.mask is not None
    assert other.mask is not None
    a, b = reference.mask[pair[0]], other.mask[pair[1]]
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def _keypoint_distances(reference: Detections, other: Detections, pairs: Pairs) -> list[tuple[int, NDArray[Any]]]:
    """For each pair the reference's index and the distances of the points that it is sure of, pixels."""
    if reference.keypoints is None or other.keypoints is None:
        return []
    found = []
    for a, b in pairs:
        mine, theirs = reference.keypoints[a], other.keypoints[b]
        found.append((a, np.hypot(*(mine - theirs)[mine[:, 2] >= _SEEN, :2].T)))
    return found


def _maps(reference: NDArray[Any], other: NDArray[Any]) -> MapLikeness:
    size = int(max(reference.max(initial=0), other.max(initial=0))) + 1
    equal = reference == other
    counts = [np.bincount(v.ravel(), minlength=size) for v in (reference[equal], reference, other)]
    same = float(equal.mean())
    return MapLikeness(np.stack(counts), same, 1 - same, f"{1 - same:.2%} of the pixels differ")


def _classes(reference: Classification, other: Classification) -> ClassLikeness:
    best, theirs = int(reference.scores.argmax()), int(other.scores.argmax())
    shift = float(other.scores[best]) - float(reference.scores[best])
    boxes = None
    if reference.xyxy is not None and other.xyxy is not None:
        boxes = float(box_iou(reference.xyxy[None], other.xyxy[None])[0, 0])
    difference = float(best != theirs) + float(np.abs(reference.scores - other.scores).mean())
    remark = f"score {shift:+.3f}" + ("" if best == theirs else ", another class")
    return ClassLikeness(best == theirs, shift, boxes, difference, remark)


def summarise(pictures: Sequence[Likeness], names: Sequence[str]) -> dict[str, Any]:
    """Agreement over one run's pictures, in their order.

    Args:
        pictures: of one task.
        names: the model's classes.

    Returns:
        Boxes: `float_boxes`, `boxes` (at the threshold), `matched_50`, `matched_70` (pairs of one class at that IoU, as
        a share of both sides: 2 m / (a + b); None without boxes), `missing`, `extra`, `matched_around` (as
        `matched_50`, the mean over thresholds up to 0.1 below and above; one box that crosses the threshold by chance
        moves it little), `score_shift` (mean over the pairs), `mask_iou`, `keypoint_px`, `keypoint_share` where the
        task has them.
        Maps: `mask_iou` (mean over the classes in the reference), `mask_iou_by_area` (each class weighted by its pixels
        in the reference: the frequency-weighted IoU of Long et al., arXiv:1411.4038, which a rare class moves
        little), `pixels_same`, `per_class` {name: IoU}.
        Classification: `top1_same`, `score_shift`, `box_iou`.
    """
    first = pictures[0]
    if isinstance(first, BoxLikeness):
        return _box_summary([p for p in pictures if isinstance(p, BoxLikeness)])
    if isinstance(first, MapLikeness):
        return _map_summary([p for p in pictures if isinstance(p, MapLikeness)], names)
    found = [p for p in pictures if isinstance(p, ClassLikeness)]
    return {
        "top1_same": _mean([p.same for p in found]),
        "score_shift": _mean([p.shift for p in found]),
        "box_iou": _mean([p.box_iou for p in found if p.box_iou is not None]),
    }


def _box_summary(pictures: list[BoxLikeness]) -> dict[str, Any]:
    mine, theirs = (sum(p.boxes[i] for p in pictures) for i in range(2))
    matched = {iou: sum(p.matched[iou] for p in pictures) for iou in (0.5, 0.7)}
    share = {iou: 2 * found / (mine + theirs) if mine + theirs else None for iou, found in matched.items()}
    return {
        "float_boxes": mine,
        "boxes": theirs,
        "matched_50": share[0.5],
        "matched_70": share[0.7],
        "matched_around": _mean(
            [2 * m / (a + b) for m, a, b in np.sum([p.around for p in pictures], axis=0).T if a + b]
        ),
        "missing": mine - matched[0.5],
        "extra": theirs - matched[0.5],
        "score_shift": _mean(np.concatenate([np.diff(p.scores)[:, 0] for p in pictures])),
        "mask_iou": _mean([value for p in pictures for value in p.mask_iou]),
        "keypoint_px": _mean([value for p in pictures for value in p.keypoint_px]),
        "keypoint_share": _mean([value for p in pictures for value in p.keypoint_share]),
    }


def _map_summary(pictures: list[MapLikeness], names: Sequence[str]) -> dict[str, Any]:
    size = max(p.counts.shape[1] for p in pictures)
    both, mine, theirs = np.sum([np.pad(p.counts, ((0, 0), (0, size - p.counts.shape[1]))) for p in pictures], axis=0)
    seen = np.flatnonzero(mine)
    iou = both[seen] / (mine + theirs - both)[seen]
    per_class = {names[k] if k < len(names) else str(k): float(v) for k, v in zip(seen.tolist(), iou, strict=True)}
    return {
        "mask_iou": _mean(list(per_class.values())),
        "mask_iou_by_area": float(np.average(iou, weights=mine[seen])),
        "pixels_same": _mean([p.same for p in pictures]),
        "per_class": per_class,
    }


def _mean(values: Any) -> float | None:
    return float(np.mean(values)) if len(values) else None


@dataclass
class Agreement:
    """Collects how far one graph agrees with the float one, over several runs.

    Attributes:
        runs: for each run the pictures' likeness, by number.
    """

    threshold: float | None
    runs: list[dict[int, Likeness]] = field(default_factory=list)

    def add(self, index: int, reference: Result, other: Result) -> None:
        """Take one picture of the last run; called from several threads, once per picture."""
        self.runs[-1][index] = compare_results(reference, other, self.threshold)

    def figures(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """`summarise` of each run."""
        return [summarise([run[i] for i in sorted(run)], names) for run in self.runs]

    def score_histogram(self) -> dict[str, list[int]] | None:
        """How often matched boxes have which score, in BINS steps over 0..1, over all runs: {`float`, `graph`}; None
        for other tasks."""
        found = [p.scores for run in self.runs for p in run.values() if isinstance(p, BoxLikeness)]
        if not found:
            return None
        scores = np.concatenate(found)
        counts = [np.histogram(column, BINS, (0, 1))[0].tolist() for column in scores.T]
        return dict(zip(("float", "graph"), counts, strict=True))

    def most_different(self, count: int) -> list[int]:
        """Numbers of the pictures with the largest differences in the first run, the largest first; equal ones left
        out."""
        first = self.runs[0]
        order = sorted((i for i in first if first[i].difference > 0), key=lambda i: (-first[i].difference, i))
        return order[:count]
