"""One row per detection, for spreadsheets and pandas; complete and flushed frame by frame."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping
from pathlib import Path

from edgevision.errors import SinkError
from edgevision.frame import Frame
from edgevision.results import Classification, Detections, Result
from edgevision.sinks.base import Sink
from edgevision.sinks.text_file import TextFile
from edgevision.sources.base import Source

UNDERSTANDS = "a table, one row per detection: out.csv"
ONE_SOURCE = False
_HEADER = "source_id,frame_id,ts_capture_ns,media_time_s,age_ms,class_id,class,confidence,x1,y1,x2,y2,tracker_id"


def claims(uri: str) -> bool:
    return "://" not in uri and Path(uri).suffix.lower() == ".csv"


def make(uri: str, source: Source | None) -> Sink:
    return CsvLines(Path(uri))


class CsvLines:
    """Boxes in pixels of the source picture. A classification is a row without a box for its best class; a frame in
    which nothing was found has no row."""

    name = ""

    def __init__(self, path: Path) -> None:
        self._file = TextFile(path)
        self._file.write(_HEADER + "\n")

    def write(self, frame: Frame, result: Result, timing_ms: Mapping[str, float]) -> None:
        age_ms = round((time.monotonic_ns() - frame.capture_time_ns) / 1e6, 3)
        media_time_s = "" if frame.media_time_s is None else round(frame.media_time_s, 6)
        start = [frame.source_id, frame.frame_id, frame.capture_time_ns, media_time_s, age_ms]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for row in self._rows(result):
            writer.writerow([*start, *row])
        self._file.write(text.getvalue())

    def _rows(self, result: Result) -> list[list[object]]:
        if isinstance(result, Classification):
            name, score = result.top()[0]
            return [[int(result.scores.argmax()), name, round(score, 4), "", "", "", "", ""]]
        if not isinstance(result, Detections):
            raise SinkError(f"{self._file.path} takes detections or classes, this model gives {type(result).__name__}")
        ids = [""] * len(result) if result.tracker_id is None else result.tracker_id.tolist()
        boxes = result.xyxy.astype(float).round(2).tolist()
        return [
            [class_id, result.name(i), round(confidence, 4), *boxes[i], ids[i]]
            for i, (class_id, confidence) in enumerate(
                zip(result.class_id.tolist(), result.confidence.tolist(), strict=True)
            )
        ]

    def close(self) -> None:
        self._file.close()
