"""The pictures on which graphs differ most, drawn side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgevision.drawing import draw, line_width
from edgevision.evaluation.agreement import Agreement, match_boxes
from edgevision.evaluation.judging import Judge
from edgevision.evaluation.running import Dither, run_pictures
from edgevision.model import Model
from edgevision.optional import require
from edgevision.progress import Progress
from edgevision.results import Detections, Result, SegmentationMap

CELL_WIDTH = 480
DIFFERENT_BGR = (255, 0, 255)


@dataclass(frozen=True)
class Shown:
    """One picture as every graph sees it.

    Attributes:
        name: the picture's file name.
        cells: per graph its name, what differs from the float graph, and the drawing, (h, w, 3) uint8 BGR.
    """

    name: str
    cells: list[tuple[str, str, NDArray[np.uint8]]]


def show(
    models: Sequence[Model],
    noise: Sequence[Dither | None],
    judge: Judge,
    numbers: Sequence[int],
    agreements: Sequence[Agreement],
) -> list[Shown]:
    """Draw the pictures `numbers` as all models see them; of the boxes those at the threshold.

    Args:
        models: the float one first.
        noise: as in the run in which the numbers were found.
        agreements: of all models but the first, with that run first.
    """
    found: dict[int, list[Result]] = {}
    if numbers:
        run_pictures(models, noise, judge.pictures, numbers, found.__setitem__, Progress("drawing", quiet=True))
    titles = [f"{model.graph_name} ({model.precision})" for model in models]
    shown = []
    for number in numbers:
        image = judge.pictures[number].read()
        results = [_at_threshold(result, judge.threshold) for result in found[number]]
        remarks = ["the reference", *(agreement.runs[0][number].remark for agreement in agreements)]
        drawings = [_scaled(_mark(draw(image, result), result, results[0])) for result in results]
        shown.append(Shown(judge.pictures[number].path.name, list(zip(titles, remarks, drawings, strict=True))))
    return shown


def _at_threshold(result: Result, threshold: float | None) -> Result:
    if threshold is None or not isinstance(result, Detections):
        return result
    return result[result.confidence >= threshold]


def _mark(image: NDArray[np.uint8], result: Result, reference: Result) -> NDArray[np.uint8]:
    """Frame the boxes that only one of the two has, or paint the pixels that differ."""
    if isinstance(result, SegmentationMap) and isinstance(reference, SegmentationMap):
        image[result.class_map != reference.class_map] = DIFFERENT_BGR
    if isinstance(result, Detections) and isinstance(reference, Detections):
        cv2 = require("cv2", "drawing results")
        pairs = match_boxes(reference, result, 0.5)
        width = line_width(*image.shape[1::-1])
        for side, boxes in enumerate((reference, result)):
            lonely = np.delete(boxes.xyxy, [pair[side] for pair in pairs], axis=0)
            for left, top, right, bottom in np.rint(lonely).astype(int).tolist():
                corners = (left - 2 * width, top - 2 * width), (right + 2 * width, bottom + 2 * width)
                cv2.rectangle(image, *corners, DIFFERENT_BGR, 2 * width)
    return image


def _scaled(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    if width <= CELL_WIDTH:
        return image
    cv2 = require("cv2", "drawing results")
    size = (CELL_WIDTH, max(1, round(height * CELL_WIDTH / width)))
    scaled: NDArray[np.uint8] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return scaled
