"""Two stages: boxes from one model, classes for what is in them from another.

R-CNN's way (Girshick et al., arXiv:1311.2524) with any detector as the source of proposals: every box is cut out of the
picture, classified, optionally moved to where the classifier sees the object, and suppressed again by its new class.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgevision.cropping import grown
from edgevision.errors import UsageError
from edgevision.frame import Frame
from edgevision.kernels.cpu import keep
from edgevision.manifest import BOX_TASKS, Nms
from edgevision.results import Classification, Detections

if TYPE_CHECKING:
    from edgevision.model import AnyLane, Model

BACKGROUND = "background"


class Cascade:
    """A detector and a classifier as one model: call it with pictures, or run it in a pipeline.

    A detection's class and confidence are the classifier's; `data["proposal_confidence"]` keeps the detector's. Boxes
    that the classifier calls `background` are dropped. A classifier that localises moves the boxes.
    """

    def __init__(
        self,
        detector: Model,
        classifier: Model,
        *,
        padding: float = 0.1,
        confidence: float = 0.3,
        iou: float = 0.5,
    ) -> None:
        """
        Args:
            detector: finds boxes; it stays the caller's to close.
            classifier: says what is in them; likewise.
            padding: shown around each box, as a share of its size.
            confidence: least confidence of the classifier.
            iou: boxes of one class that overlap a better one by more than this are dropped.

        Raises:
            UsageError: the models' tasks are others, or a number is out of range.
        """
        for model, tasks in ((detector, BOX_TASKS), (classifier, ("classification",))):
            if model.manifest.task not in tasks:
                raise UsageError(
                    f"{model.manifest.name} does {model.manifest.task}; a cascade takes a detector and a classifier, "
                    "in this order"
                )
        if not (0 <= padding <= 10 and 0 <= confidence <= 1 and 0 <= iou <= 1):
            raise UsageError(f"padding is in 0..10, confidence and iou in 0..1, got {padding}, {confidence}, {iou}")
        self._detector, self._classifier, self._padding = detector, classifier, padding
        names = classifier.manifest.labels
        self._nms = Nms(iou_threshold=iou, confidence=confidence, max_detections=100_000)
        self._thresholds = np.full(len(names), confidence, np.float32)
        self._thresholds[[name == BACKGROUND for name in names]] = np.inf
        self._lane: CascadeLane | None = None  # opened at the first call: a pipeline opens its own
        self._lock = threading.Lock()

    def __call__(self, frame: Frame | NDArray[np.uint8]) -> Detections:
        """What is in the picture, in its pixels; from any thread, one at a time."""
        with self._lock:
            if self._lane is None:
                self._lane = self.open_lane()
            return self._lane(frame)

    def lanes(self) -> int:
        """Workers side by side that serve this machine best."""
        return self._detector.lanes()

    def open_lane(self, threads: int = 1) -> CascadeLane:
        """Another way through both models, for another thread; close it after use."""
        return CascadeLane(
            self._detector.open_lane(threads),
            self._classifier.open_lane(threads),
            self._classifier.manifest.labels,
            self._padding,
            self._nms,
            self._thresholds,
        )

    def close(self) -> None:
        """Free this cascade's own lane; the models stay open. May be called twice."""
        with self._lock:
            if self._lane is not None:
                self._lane.close()


class CascadeLane:
    """One worker's way through both stages.

    Attributes:
        timing_ms: the detector's stages of the last call, and `classify`.
    """

    def __init__(
        self,
        detector: AnyLane,
        classifier: AnyLane,
        names: tuple[str, ...],
        padding: float,
        nms: Nms,
        thresholds: NDArray[np.float32],
    ) -> None:
        self._detector, self._classifier, self._names = detector, classifier, names
        self._padding, self._nms, self._thresholds = padding, nms, thresholds
        self.timing_ms: dict[str, float] = {}

    def __call__(self, frame: Frame | NDArray[np.uint8]) -> Detections:
        """What is in the picture, in its pixels."""
        proposals = self._detector(frame)
        assert isinstance(proposals, Detections)
        start = time.perf_counter()
        image = frame.image if isinstance(frame, Frame) else frame
        found = self._classify(image, proposals)
        self.timing_ms = {**self._detector.timing_ms, "classify": (time.perf_counter() - start) * 1e3}
        return found

    def _classify(self, image: NDArray[np.uint8], proposals: Detections) -> Detections:
        if not len(proposals):
            return Detections.empty(self._names)
        cuts = [grown(xyxy, image.shape[1::-1], self._padding, None) for xyxy in proposals.xyxy]
        answers = self._classifier.batch([np.ascontiguousarray(image[y1:y2, x1:x2]) for x1, y1, x2, y2 in cuts])
        scores, boxes = np.empty((len(cuts), len(self._names)), np.float32), proposals.xyxy.copy()
        for index, (answer, cut) in enumerate(zip(answers, cuts, strict=True)):
            assert isinstance(answer, Classification)
            scores[index] = answer.scores
            if answer.xyxy is not None:
                boxes[index] = answer.xyxy + np.array(cut[:2] * 2, np.float32)
        return self._decide(boxes, scores, proposals)

    def _decide(self, boxes: NDArray[np.float32], scores: NDArray[np.float32], proposals: Detections) -> Detections:
        rows, confidence, class_id = keep(boxes, scores, self._nms, self._thresholds)
        data: dict[str, NDArray[Any]] = {
            "proposal_confidence": proposals.confidence[rows],
            "proposal_class_id": proposals.class_id[rows],
        }
        return Detections(boxes[rows], confidence, class_id, self._names, data=data)

    def close(self) -> None:
        """Free both lanes; may be called twice."""
        self._detector.close()
        self._classifier.close()
