"""Metrics of detection: COCO's average precision (pycocotools), VOC's, and recall at a working threshold."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevision.errors import DatasetError
from edgevision.evaluation.datasets import BoxTruth
from edgevision.geometry import box_iou, xyxy_to_xywh
from edgevision.optional import require

# Larger than pycocotools' largest area range: such a box is matched as usual but counts neither way.
_OUTSIDE_ALL_AREAS = 1e12


@dataclass(frozen=True)
class Found:
    """What a model found in one picture; class ids are the data set's.

    Attributes:
        xyxy: (n, 4) corners, continuous pixels.
        confidence: (n,) in 0..1.
        class_id: (n,) int.
        masks: n of pycocotools' encodings, for `mask_metrics`.
    """

    xyxy: NDArray[Any]
    confidence: NDArray[Any]
    class_id: NDArray[Any]
    masks: Sequence[dict[str, Any]] = ()


def coco_metrics(
    truth: Sequence[BoxTruth], found: Sequence[Found], names: Sequence[str], judged: Sequence[int], threshold: float
) -> dict[str, Any]:
    """COCO's protocol: AP over IoU .50:.05:.95 with 101 recall points, at most 100 boxes per picture and class.

    Args:
        truth, found: per picture, in the same order.
        names: the data set's classes.
        judged: indices of the classes to judge.
        threshold: confidence at which recall and precision are reported.

    Returns:
        `map_50_95`, `map_50`, `recall_at_threshold`, `precision_at_threshold` (IoU 0.5; precision is None where
        nothing was found) and `per_class` {name: {`ap_50_95`, `ap_50`, `boxes`}} of the classes in the truth.

    Raises:
        DatasetError: the truth holds no box of a judged class.
    """
    evaluation = run_cocoeval(truth, found, judged)
    precisions = _average_precisions(evaluation)
    if not precisions:
        raise DatasetError("the data set has no boxes of the model's classes: average precision is not defined")
    required = np.concatenate([t.class_id[~(t.crowd | t.difficult)] for t in truth])
    number = np.bincount(required, minlength=len(names)).tolist()
    per_class = {
        names[index]: {"ap_50_95": all_ious, "ap_50": half, "boxes": number[index]}
        for index, (all_ious, half) in precisions.items()
    }
    hits, objects, reported = _at_threshold(evaluation, threshold)
    return {
        "map_50_95": float(np.mean([all_ious for all_ious, _ in precisions.values()])),
        "map_50": float(np.mean([half for _, half in precisions.values()])),
        "recall_at_threshold": hits / objects,
        "precision_at_threshold": hits / reported if reported else None,
        "per_class": per_class,
    }


def mask_metrics(truth: Sequence[BoxTruth], found: Sequence[Found], judged: Sequence[int]) -> dict[str, float]:
    """COCO's average precision of masks: `mask_map_50_95`, `mask_map_50`. Every object needs its outline."""
    precisions = list(_average_precisions(run_cocoeval(truth, found, judged, masks=True)).values())
    return {
        "mask_map_50_95": float(np.mean([all_ious for all_ious, _ in precisions])),
        "mask_map_50": float(np.mean([half for _, half in precisions])),
    }


def _average_precisions(evaluation: Any) -> dict[int, tuple[float, float]]:
    """Class -> (over all IoUs, at the first), of the classes in the truth."""
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # IoU, recall point, class; -1: not in the truth
    return {
        index: (float(precision[:, :, k].mean()), float(precision[0, :, k].mean()))
        for k, index in enumerate(evaluation.params.catIds)
        if (precision[:, :, k] >= 0).all()
    }


def run_cocoeval(
    truth: Sequence[BoxTruth],
    found: Sequence[Found],
    judged: Sequence[int],
    ious: Sequence[float] | None = None,
    *,
    masks: bool = False,
) -> Any:
    """A pycocotools COCOeval after `accumulate()`; `ious` replaces COCO's ten thresholds, `masks` compares masks."""
    cocoeval = require("pycocotools.cocoeval", "COCO average precision")
    with contextlib.redirect_stdout(io.StringIO()):  # it prints as it goes
        given = _ground_truth(truth, judged, masks), _results(found, judged, masks)
        evaluation = cocoeval.COCOeval(*given, "segm" if masks else "bbox")
        if ious is not None:
            evaluation.params.iouThrs = np.asarray(ious)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def _ground_truth(truth: Sequence[BoxTruth], judged: Sequence[int], masks: bool) -> Any:
    annotations: list[dict[str, Any]] = []
    for image_id, t in enumerate(truth, 1):
        area = np.where(t.difficult, _OUTSIDE_ALL_AREAS, t.area).tolist()
        columns = (_xywh(t.xyxy), t.class_id.tolist(), area, t.crowd.tolist())
        shapes = (
            [None if outline is None else outline.encode() for outline in t.outlines] if masks else [None] * len(area)
        )
        for bbox, category, size, crowd, shape in zip(*columns, shapes, strict=True):
            # Ids start at 1: pycocotools takes 0 for "no match".
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "category_id": category}
            annotation |= {"bbox": bbox, "area": size, "iscrowd": int(crowd), "segmentation": shape}
            annotations.append(annotation)
    return _coco(annotations, len(truth), judged)


def _results(found: Sequence[Found], judged: Sequence[int], masks: bool) -> Any:
    annotations: list[dict[str, Any]] = []
    for image_id, f in enumerate(found, 1):
        shapes = f.masks if masks else [None] * len(f.xyxy)
        columns = (_xywh(f.xyxy), f.class_id.tolist(), f.confidence.tolist(), shapes)
        for bbox, category, score, shape in zip(*columns, strict=True):
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "category_id": category, "iscrowd": 0}
            annotation |= {"bbox": bbox, "area": bbox[2] * bbox[3], "score": score, "segmentation": shape}
            annotations.append(annotation)
    return _coco(annotations, len(found), judged)


def _xywh(xyxy: NDArray[Any]) -> list[list[float]]:
    return xyxy_to_xywh(xyxy.astype(np.float64)).tolist()  # type: ignore[no-any-return]


def _coco(annotations: list[dict[str, Any]], pictures: int, judged: Sequence[int]) -> Any:
    coco = require("pycocotools.coco", "COCO average precision").COCO()
    coco.dataset = {
        # A size is asked for and not used: masks are encoded already.
        "images": [{"id": i + 1, "height": 0, "width": 0} for i in range(pictures)],
        "categories": [{"id": index} for index in judged],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def _at_threshold(evaluation: Any, threshold: float) -> tuple[int, int, int]:
    """(objects found, objects, boxes reported) at IoU 0.5 by the boxes of at least `threshold`.

    COCO matches in order of confidence, so weaker boxes never change what stronger ones matched.
    """
    hits = objects = reported = 0
    # evalImgs runs over class, area range, picture; the first area range is "all".
    pictures, areas = len(evaluation.params.imgIds), len(evaluation.params.areaRng)
    for k in range(len(evaluation.params.catIds)):
        start = k * areas * pictures
        for entry in evaluation.evalImgs[start : start + pictures]:
            if entry is None:
                continue
            counted = (np.asarray(entry["dtScores"]) >= threshold) & ~entry["dtIgnore"][0].astype(bool)
            hits += int((counted & (entry["dtMatches"][0] > 0)).sum())
            reported += int(counted.sum())
            objects += int((~entry["gtIgnore"].astype(bool)).sum())
    return hits, objects, reported


def voc_average_precision(truth: Sequence[BoxTruth], found: Sequence[Found], index: int, iou: float = 0.5) -> float:
    """VOC's average precision of one class: area under the precision envelope at every recall.

    As in the development kit of VOC 2010 and later: each box is compared with the object that it overlaps most;
    difficult objects count neither way. NaN where the truth has no such object.
    """
    boxes = [t.xyxy[t.class_id == index] for t in truth]
    difficult = [(t.difficult | t.crowd)[t.class_id == index] for t in truth]
    taken = [np.zeros(len(b), bool) for b in boxes]
    objects = int(sum((~d).sum() for d in difficult))
    if not objects:
        return float("nan")
    candidates = [
        (-float(score), picture, box)
        for picture, f in enumerate(found)
        for score, box in zip(f.confidence[f.class_id == index], f.xyxy[f.class_id == index], strict=True)
    ]
    hits: list[bool] = []
    for _, picture, box in sorted(candidates, key=lambda c: c[0]):
        overlap = box_iou(box[None], boxes[picture])[0]
        best = int(overlap.argmax()) if len(overlap) else 0
        near = len(overlap) > 0 and overlap[best] >= iou
        if near and difficult[picture][best]:
            continue
        hits.append(bool(near and not taken[picture][best]))
        if near:
            taken[picture][best] = True
    found_so_far = np.cumsum(hits)
    recall = np.concatenate([[0.0], found_so_far / objects])
    precision = found_so_far / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall) * envelope))
