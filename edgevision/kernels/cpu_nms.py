"""Non-maximum suppression from normal-form boxes and scores: exact, deterministic, in numpy.

Greedy suppression as in the textbook: the best box stays, every box that overlaps it by more than the threshold
goes, and so on. Candidates are taken in blocks, best first: a block is compared with the boxes kept so far, then
with itself as rows of bits, and work stops at `max_detections`. So the cost is bounded by candidates x
max_detections, and in practice by the boxes needed to fill the result.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgevision.manifest import Nms

MAX_CANDIDATES = 30_000
_BLOCK = 128  # the block's matrices stay in the second-level cache and below malloc's threshold for fresh pages


def suppress(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    nms: Nms,
    thresholds: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """The detections in one picture, best first.

    A box is a candidate under its best class (under every class with `nms.multi_label`) when that score is greater
    than the class's threshold. Equal scores are ordered by box index, then class. NaN and infinite scores, and boxes
    that are empty or not finite, are never detections. Beyond MAX_CANDIDATES only the best candidates are considered.
    IoU is compared as `intersection > threshold * union` in float32, operation by operation.

    Args:
        boxes: (n, 4) float32 corners.
        scores: (n, c) float32, C-contiguous.
        nms: the settings.
        thresholds: (c,) float32, least score per class; infinity leaves a class out. None: nms.confidence for all.

    Returns:
        Corners (k, 4) float32, confidence (k,) float32, class (k,) int64; k <= nms.max_detections.
    """
    if thresholds is None:
        thresholds = np.full(scores.shape[1], nms.confidence, np.float32)
    kept, confidence, class_id = keep(boxes, scores, nms, thresholds)
    return boxes[kept], confidence, class_id


def keep(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    nms: Nms,
    thresholds: NDArray[np.float32],
    class_ids: NDArray[np.int32] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Like `suppress`, but returns the rows of the boxes kept, for whatever else belongs to them.

    With `class_ids` (n,) the scores are (n,): the network has chosen one class per box and left no duplicates, so
    nothing suppresses anything. Class numbers outside the thresholds' are never detections.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        if class_ids is None:
            index, class_id, confidence = _candidates(scores, thresholds, nms.multi_label)
        else:
            index = np.flatnonzero((class_ids >= 0) & (class_ids < len(thresholds)) & np.isfinite(scores))
            class_id, confidence = class_ids[index].astype(np.int64), scores[index]
        corners = boxes[index]
        if not len(index):
            return index, confidence, class_id
        width, height = corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1]
        usable = (confidence > thresholds[class_id]) & (width > 0) & (height > 0) & (width * height < np.inf)
        order = np.flatnonzero(usable)
        order = order[_descending(confidence[order])[:MAX_CANDIDATES]]
        if class_ids is None:
            groups = 0 if nms.class_agnostic else class_id[order]
            kept = order[_greedy(corners[order], groups, nms.iou_threshold, nms.max_detections)]
        else:
            kept = order[: nms.max_detections]
    return index[kept], confidence[kept], class_id[kept]


def _candidates(
    scores: NDArray[np.float32], thresholds: NDArray[np.float32], multi_label: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Box, class and score of every score worth a look, by box and class; one per box unless `multi_label`."""
    flat = scores.reshape(-1)
    # One pass over all scores with one bound; everything after handles survivors only.
    hits = np.flatnonzero(flat > thresholds.min(initial=np.inf))
    confidence = flat[hits]
    finite = np.isfinite(confidence)
    if not finite.all():
        hits, confidence = hits[finite], confidence[finite]
    index, class_id = np.divmod(hits, scores.shape[1])
    if not multi_label and len(index):
        first = np.append(True, index[1:] != index[:-1])
        if not first.all():
            starts = np.flatnonzero(first)
            best = np.maximum.reduceat(confidence, starts)
            top = np.flatnonzero(confidence == np.repeat(best, np.diff(starts, append=len(index))))
            top = top[np.append(True, index[top[1:]] != index[top[:-1]])]
            index, class_id, confidence = index[top], class_id[top], confidence[top]
    return index, class_id, confidence


def _descending(confidence: NDArray[np.float32]) -> NDArray[np.int64]:
    """Order of positive scores from best to worst, equal ones by index."""
    # The bits of positive floats sort like the floats. With the index below them every key is unique, and numpy's
    # vectorised sort, which is not stable, can be used: several times faster than a stable argsort.
    keys = (~confidence.view(np.uint32)).astype(np.uint64) << np.uint64(32) | np.arange(
        len(confidence), dtype=np.uint64
    )
    keys.sort()
    order: NDArray[np.int64] = (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
    return order


def _greedy(
    corners: NDArray[np.float32], groups: NDArray[np.int64] | int, iou_threshold: float, limit: int
) -> NDArray[np.int64]:
    """Positions of the boxes that stay, from boxes in descending order of score; only equal groups suppress."""
    columns = np.empty((6, len(corners)), np.float32)
    columns[:4] = corners.T
    np.multiply(columns[2] - columns[0], columns[3] - columns[1], out=columns[4])
    columns[5] = groups  # class numbers are exact in float32
    threshold = np.float32(iou_threshold)
    kept = np.empty(min(limit, len(corners)), np.int64)
    best = np.empty((6, len(kept)), np.float32)
    count = 0
    for start in range(0, len(corners), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(corners)))
        boxes = columns[:, start : start + _BLOCK]
        if count:
            free = np.flatnonzero(~_overlaps(best[:, :count], boxes, threshold).any(axis=0))
            block, boxes = block[free], boxes[:, free]
        chosen = _pick(_overlaps(boxes, boxes, threshold), len(kept) - count)
        end = count + len(chosen)
        kept[count:end], best[:, count:end] = block[chosen], boxes[:, chosen]
        count = end
        if count == len(kept):
            break
    return kept[:count]


def _overlaps(a: NDArray[np.float32], b: NDArray[np.float32], threshold: np.float32) -> NDArray[np.bool_]:
    """(m, n): which of boxes a (6, m) suppress which of b (6, n); rows x1, y1, x2, y2, area, group."""
    intersection = np.minimum.outer(a[2], b[2])
    work = np.maximum.outer(a[0], b[0])
    intersection -= work
    # Clipping one side is enough: with a negative height the product is negative, and never above the threshold.
    np.maximum(intersection, 0, out=intersection)
    height = np.minimum.outer(a[3], b[3])
    np.maximum.outer(a[1], b[1], out=work)
    height -= work
    intersection *= height
    union = np.add.outer(a[4], b[4], out=work)
    union -= intersection
    union *= threshold
    over: NDArray[np.bool_] = intersection > union
    over &= np.equal.outer(a[5], b[5])
    return over


def _pick(over: NDArray[np.bool_], limit: int) -> list[int]:
    """Greedy choice within one block from its symmetric (n, n) overlap matrix; at most `limit`."""
    packed = np.packbits(over, axis=1, bitorder="little")
    width, data = packed.shape[1], packed.tobytes()
    free = (1 << len(over)) - 1  # bit i: box i is neither chosen nor suppressed
    chosen: list[int] = []
    while free and len(chosen) < limit:
        lowest = free & -free
        i = lowest.bit_length() - 1
        chosen.append(i)
        free &= ~(int.from_bytes(data[i * width : (i + 1) * width], "little") | lowest)
    return chosen
