"""Detections in the COCO results format, as pycocotools and evaluation servers read it.

Source: https://cocodataset.org/#format-results. The file appears when the sink is closed, whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevision.errors import SinkError
from edgevision.files import atomic_path
from edgevision.frame import Frame
from edgevision.geometry import xyxy_to_xywh
from edgevision.labels import BUILT_IN
from edgevision.optional import require
from edgevision.results import Detections, Result
from edgevision.sinks.base import Sink, cannot_write, check_folder
from edgevision.sources.base import Source

UNDERSTANDS = "COCO results: coco:out.json (detection)"
ONE_SOURCE = True
_OFFICIAL = {name: category_id for category_id, name in enumerate(BUILT_IN["coco90"])}


def claims(uri: str) -> bool:
    return uri.startswith("coco:")


def make(uri: str, source: Source | None) -> Sink:
    return CocoResults(Path(uri.removeprefix("coco:")))


class CocoResults:
    """Entries stream into a file beside the target, so memory stays flat however long the run.

    `image_id` is the number that names the picture (000000000139.jpg), else the frame's number. `category_id` is the
    official one where all class names are COCO's, else the class's number counted from 1.
    """

    name = ""

    def __init__(self, path: Path) -> None:
        check_folder(path)
        self._path = path
        self._held = ExitStack()
        self._separator = "[\n"
        try:
            beside = self._held.enter_context(atomic_path(path))
            self._file = self._held.enter_context(beside.open("w", encoding="utf-8"))
        except OSError as error:
            self._held.close()
            raise cannot_write(path, error) from error

    def write(self, frame: Frame, result: Result, timing_ms: Mapping[str, float]) -> None:
        if not isinstance(result, Detections):
            raise self._abandon(
                SinkError(f"coco:{self._path} takes detections, this model gives {type(result).__name__}")
            )
        stem = Path(frame.name).stem
        image_id = int(stem) if stem.isdecimal() else frame.frame_id
        official = set(result.names) <= _OFFICIAL.keys()
        try:
            boxes = xyxy_to_xywh(result.xyxy).tolist()
            for i, (class_id, score) in enumerate(
                zip(result.class_id.tolist(), result.confidence.tolist(), strict=True)
            ):
                category_id = _OFFICIAL[result.names[class_id]] if official and result.names else class_id + 1
                entry = {
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": [round(value, 3) for value in boxes[i]],
                    "score": round(score, 6),
                }
                if result.keypoints is not None:
                    entry["keypoints"] = result.keypoints[i].astype(float).round(2).ravel().tolist()
                if result.mask is not None:
                    entry["segmentation"] = _run_lengths(result.mask[i])
                self._file.write(self._separator + json.dumps(entry))
                self._separator = ",\n"
        except OSError as error:
            raise self._abandon(cannot_write(self._path, error)) from error

    def close(self) -> None:
        try:
            if not self._file.closed:
                self._file.write("[]\n" if self._separator == "[\n" else "\n]\n")
                self._file.flush()
            self._held.close()
        except OSError as error:
            raise self._abandon(cannot_write(self._path, error)) from error

    def _abandon(self, error: SinkError) -> SinkError:
        """Leave nothing behind."""
        with suppress(OSError):  # what is still in the file's buffer cannot be written either
            self._held.__exit__(type(error), error, None)
        return error


def _run_lengths(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """COCO's compressed run lengths of a mask (h, w)."""
    coder: Any = require("pycocotools.mask", "masks in COCO results")
    encoded = coder.encode(np.asfortranarray(mask.view(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}
