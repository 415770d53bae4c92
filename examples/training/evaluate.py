"""Score an exported ONNX file on scenes that no training has seen.

    python examples/training/evaluate.py aerial_detector.onnx     # mAP50, mAP50-95 (pycocotools)
    python examples/training/evaluate.py aerial_segmenter.onnx    # mIoU at the frame's own resolution

Runs the float graph in ONNX Runtime on 1280x720 frames, stretched to the network's input as the runtime does.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from data import FRAME_SIZE_WH, HELD_OUT_SEEDS, FrameSet
from edgevision.synthetic import DETECTION_CLASSES, SEGMENTATION_CLASSES, AerialScene
from metadata import KEY, VARIANCES

LEAST_SCORE = 0.01
NMS_IOU = 0.5
MAX_DETECTIONS = 100

Float = npt.NDArray[np.float32]


def score(path: Path, frame_set: FrameSet, threads: int) -> dict[str, Any]:
    """The scores of the ONNX file `path` on `frame_set`: `map_50`, `map_50_95` or `miou`, and `per_class`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    metadata = json.loads(session.get_modelmeta().custom_metadata_map[KEY])
    scorer = {"ssd": _score_detector, "semantic": _score_segmenter}[metadata["family"]]
    return scorer(session, frame_set)


def network_input(image: npt.NDArray[np.uint8], session: onnxruntime.InferenceSession) -> Float:
    """A BGR frame as (1, 3, h, w) float32 RGB in -1..1, stretched to the session's input."""
    height, width = session.get_inputs()[0].shape[2:]
    rgb = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)[:, :, ::-1]
    return np.asarray((rgb.transpose(2, 0, 1)[None] - 127.5) / 127.5, np.float32, order="C")


def decode_detections(scores: Float, boxes: Float, priors: Float) -> tuple[Float, Float, npt.NDArray[np.integer]]:
    """Raw outputs (n, c), (n, 4), (n, 4) -> kept xyxy in frame pixels (k, 4), confidence (k,), class_id (k,)."""
    centres = boxes[:, :2] * VARIANCES[:2] * priors[:, 2:] + priors[:, :2]
    extents = np.exp(boxes[:, 2:] * VARIANCES[2:]) * priors[:, 2:]
    size = np.array(FRAME_SIZE_WH, np.float32)
    xywh = np.concatenate([(centres - extents / 2) * size, extents * size], axis=1)
    confidence = np.asarray(1 / (1 + np.exp(-scores)), np.float32)
    rows, class_id = np.nonzero(confidence > LEAST_SCORE)
    best_first = cv2.dnn.NMSBoxesBatched(
        xywh[rows].tolist(), confidence[rows, class_id].tolist(), class_id.tolist(), LEAST_SCORE, NMS_IOU
    )
    kept = np.asarray(best_first, np.int64)[:MAX_DETECTIONS]
    rows, class_id = rows[kept], class_id[kept]
    xyxy = np.concatenate([xywh[rows, :2], xywh[rows, :2] + xywh[rows, 2:]], axis=1)
    return xyxy.clip(0, np.tile(size, 2)), confidence[rows, class_id], class_id


def _score_detector(session: onnxruntime.InferenceSession, frame_set: FrameSet) -> dict[str, Any]:
    truth: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image_id, (seed, frame) in enumerate(frame_set.positions()):
        rendered = AerialScene(seed, size_wh=FRAME_SIZE_WH).render(frame)
        for xyxy, class_id in zip(rendered.xyxy.tolist(), rendered.class_id.tolist(), strict=True):
            box = {"id": len(truth) + 1, "image_id": image_id, "category_id": class_id, **_coco_box(xyxy), "iscrowd": 0}
            truth.append(box)
        scores, boxes, priors = session.run(
            ["scores", "boxes", "priors"], {"image": network_input(rendered.image, session)}
        )
        for xyxy, confidence, class_id in zip(*decode_detections(scores[0], boxes[0], priors), strict=True):
            box = {"image_id": image_id, "category_id": int(class_id), "score": float(confidence)}
            results.append({**box, **_coco_box(xyxy.tolist())})
    return _coco_scores(truth, results, len(frame_set))


def _coco_box(xyxy: list[float]) -> dict[str, Any]:
    width, height = xyxy[2] - xyxy[0], xyxy[3] - xyxy[1]
    return {"bbox": [xyxy[0], xyxy[1], width, height], "area": width * height}


def _coco_scores(truth: list[dict[str, Any]], results: list[dict[str, Any]], images: int) -> dict[str, Any]:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": index} for index in range(images)],
            "categories": [{"id": index, "name": name} for index, name in enumerate(DETECTION_CLASSES)],
            "annotations": truth,
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    at_50 = evaluation.eval["precision"][0, :, :, 0, -1]
    per_class = {name: float(at_50[:, index].mean()) for index, name in enumerate(DETECTION_CLASSES)}
    return {"map_50": float(evaluation.stats[1]), "map_50_95": float(evaluation.stats[0]), "per_class": per_class}


def _score_segmenter(session: onnxruntime.InferenceSession, frame_set: FrameSet) -> dict[str, Any]:
    count = len(SEGMENTATION_CLASSES)
    confusion = np.zeros((count, count), np.int64)
    for seed, frame in frame_set.positions():
        rendered = AerialScene(seed, size_wh=FRAME_SIZE_WH).render(frame, with_class_map=True)
        (logits,) = session.run(["logits"], {"image": network_input(rendered.image, session)})
        small = logits[0].argmax(axis=0).astype(np.uint8)
        predicted = cv2.resize(small, FRAME_SIZE_WH, interpolation=cv2.INTER_NEAREST_EXACT)
        assert rendered.class_map is not None
        pairs = rendered.class_map.astype(np.int64) * count + predicted
        confusion += np.bincount(pairs.ravel(), minlength=count * count).reshape(count, count)
    overlap = np.diag(confusion)
    iou = overlap / (confusion.sum(axis=0) + confusion.sum(axis=1) - overlap)
    per_class = dict(zip(SEGMENTATION_CLASSES, iou.tolist(), strict=True))
    return {"miou": float(iou.mean()), "pixel_accuracy": float(overlap.sum() / confusion.sum()), "per_class": per_class}


def main() -> None:
    parser = argparse.ArgumentParser(description="Score an exported ONNX file on held-out scenes.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--scenes", type=int, default=len(HELD_OUT_SEEDS))
    parser.add_argument("--frames-per-scene", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    frame_set = FrameSet(HELD_OUT_SEEDS[: arguments.scenes], arguments.frames_per_scene)
    print(json.dumps(score(arguments.model, frame_set, arguments.threads), indent=2))


if __name__ == "__main__":
    main()
