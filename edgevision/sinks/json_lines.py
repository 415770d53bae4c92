"""JSON lines: one line per frame, complete and flushed before the next."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevision.frame import Frame
from edgevision.optional import require
from edgevision.results import Classification, Detections, Result
from edgevision.sinks.base import Sink
from edgevision.sinks.text_file import TextFile
from edgevision.sources.base import Source

UNDERSTANDS = "JSON lines, one per frame: out.jsonl"
ONE_SOURCE = False


def claims(uri: str) -> bool:
    return "://" not in uri and Path(uri).suffix.lower() == ".jsonl"


def make(uri: str, source: Source | None) -> Sink:
    return JsonLines(Path(uri))


class JsonLines:
    """Lines of `frame_record`; a run that is killed leaves all lines but perhaps the last whole."""

    name = ""

    def __init__(self, path: Path) -> None:
        self._file = TextFile(path)

    def write(self, frame: Frame, result: Result, timing_ms: Mapping[str, float]) -> None:
        self._file.write(json.dumps(frame_record(frame, result, timing_ms)) + "\n")

    def close(self) -> None:
        self._file.close()


def frame_record(frame: Frame, result: Result, timing_ms: Mapping[str, float]) -> dict[str, Any]:
    """One frame's result as plain data.

    `ts_capture_ns` is this machine's monotonic clock, as in `Frame`; `age_ms` the time since then. Boxes are in pixels
    of the source picture, and so are keypoints (x, y, confidence); a segmentation is given as the share of the picture
    per class, a classification as its five best classes.
    """
    record: dict[str, Any] = {
        "source_id": frame.source_id,
        "frame_id": frame.frame_id,
        "ts_capture_ns": frame.capture_time_ns,
        "media_time_s": None if frame.media_time_s is None else round(frame.media_time_s, 6),
        "name": frame.name,
        "size_wh": frame.size_wh,
        "age_ms": round((time.monotonic_ns() - frame.capture_time_ns) / 1e6, 3),
        "latency_ms": {stage: round(value, 3) for stage, value in timing_ms.items()},
    }
    if isinstance(result, Detections):
        record["detections"] = [
            {"class_id": class_id, "class": result.name(i), "confidence": round(confidence, 4), "xyxy": box}
            for i, (class_id, confidence, box) in enumerate(
                zip(
                    result.class_id.tolist(),
                    result.confidence.tolist(),
                    result.xyxy.astype(float).round(2).tolist(),
                    strict=True,
                )
            )
        ]
        if result.keypoints is not None:
            points = result.keypoints.astype(float).round(3).tolist()
            for entry, own in zip(record["detections"], points, strict=True):
                entry["keypoints"] = own
        if result.mask is not None:
            for entry, mask in zip(record["detections"], result.mask, strict=True):
                entry["polygons"] = polygons(mask)
    elif isinstance(result, Classification):
        record["classes"] = [{"class": name, "confidence": round(score, 4)} for name, score in result.top()]
        record["xyxy"] = None if result.xyxy is None else result.xyxy.astype(float).round(2).tolist()
    else:
        record["fractions"] = {name: round(share, 5) for name, share in result.fractions().items()}
    return record


def polygons(mask: NDArray[np.bool_]) -> list[list[list[int]]]:
    """Outlines of a mask (h, w): per part, x and y of its corners in pixels; holes are not told apart."""
    cv2: Any = require("cv2", "outlines of masks")
    outlines, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [outline[:, 0].tolist() for outline in outlines]
