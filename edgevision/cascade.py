"""Two stages: boxes from one source, classes for what is in them from a classifier.

R-CNN's way (Girshick et al., arXiv:1311.2524; Fast R-CNN, arXiv:1504.08083): propose boxes, classify what each one
shows, drop background, move the boxes to where the classifier sees the object, and suppress duplicates class by class.
Proposals come from a detector, from selective search, or from any function.

    picture ── proposals ── crops, n at once ── classifier ── background dropped ── boxes moved ── suppression
       └─ on a GPU it is uploaded once: crops are parts of it, and no pixel comes back
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevision.backends.build_options import BuildOptions
from edgevision.bundle import Bundle
from edgevision.cropping import Box, grown
from edgevision.errors import UsageError
from edgevision.frame import DevicePicture, Frame
from edgevision.kernels.cpu import keep
from edgevision.manifest import BOX_TASKS, Nms
from edgevision.model import AnyLane, Model, choose_backend
from edgevision.nv12 import Nv12Picture, is_nv12
from edgevision.results import Classification, Detections

BACKGROUND = "background"
Proposals = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""From an (h, w, 3) uint8 BGR picture to boxes (n, 4) in its pixels, the most likely first; called from any thread."""
_CROPS = 8
_MOST_DETECTIONS = 100_000


class Cascade:
    """A source of boxes and a classifier as one model: call it with pictures, or run it in a pipeline.

    A detection's class and confidence are the classifier's; where the boxes are a detector's,
    `data["proposal_confidence"]` and `data["proposal_class_id"]` keep what that one said. Boxes that the classifier
    calls `background` are dropped. A classifier that localises moves the boxes.
    """

    def __init__(
        self,
        proposals: Model | Proposals,
        classifier: Model,
        *,
        padding: float = 0.1,
        confidence: float = 0.3,
        iou: float = 0.5,
        limit: int = 300,
    ) -> None:
        """
        Args:
            proposals: finds boxes: a detector, which stays the caller's to close, or a function, such as
                `SelectiveSearch()`.
            classifier: says what is in them; it stays the caller's to close. On a GPU one from `load_classifier` takes
                several crops at once.
            padding: shown around each box, as a share of its size.
            confidence: least confidence of the classifier.
            iou: boxes of one class that overlap a better one by more than this are dropped.
            limit: proposals per picture that are looked at, the first ones.

        Raises:
            UsageError: the models' tasks are others, or a number is out of range.
        """
        for model, tasks in ((proposals, BOX_TASKS), (classifier, ("classification",))):
            if isinstance(model, Model) and model.manifest.task not in tasks:
                raise UsageError(
                    f"{model.manifest.name} does {model.manifest.task}; a cascade takes a detector and a classifier, "
                    "in this order"
                )
        if not (0 <= padding <= 10 and 0 <= confidence <= 1 and 0 <= iou <= 1 and limit >= 1):
            raise UsageError(
                "padding is in 0..10, confidence and iou in 0..1, limit at least 1; "
                f"got {padding}, {confidence}, {iou}, {limit}"
            )
        self._proposals, self._classifier = proposals, classifier
        names = classifier.manifest.labels
        thresholds = np.full(len(names), confidence, np.float32)
        thresholds[[name == BACKGROUND for name in names]] = np.inf
        nms = Nms(iou_threshold=iou, confidence=confidence, max_detections=_MOST_DETECTIONS)
        self._settings = _Settings(names, padding, limit, nms, thresholds)
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
        return (self._proposals if isinstance(self._proposals, Model) else self._classifier).lanes()

    def open_lane(self, threads: int = 1) -> CascadeLane:
        """Another way through both stages, for another thread; close it after use."""
        source = self._proposals
        propose = source.open_lane(threads) if isinstance(source, Model) else _FunctionLane(source)
        try:
            return CascadeLane(propose, self._classifier.open_lane(threads), self._settings)
        except BaseException:
            propose.close()
            raise

    def close(self) -> None:
        """Free this cascade's own lane; the models stay open. May be called twice."""
        with self._lock:
            if self._lane is not None:
                self._lane.close()


@dataclass(frozen=True)
class _Settings:
    """What a cascade's lanes share; see Cascade."""

    names: tuple[str, ...]
    padding: float
    limit: int
    nms: Nms
    thresholds: NDArray[np.float32]


class CascadeLane:
    """One worker's way through both stages.

    Attributes:
        timing_ms: the proposals' stages of the last call, and `classify`.
    """

    def __init__(self, propose: AnyLane | _FunctionLane, classifier: AnyLane, settings: _Settings) -> None:
        self._propose, self._classifier, self._settings = propose, classifier, settings
        self.timing_ms: dict[str, float] = {}

    def __call__(self, frame: Frame | NDArray[np.uint8]) -> Detections:
        """What is in the picture, in its pixels."""
        proposals = self._propose(frame)
        assert isinstance(proposals, Detections)
        start = time.perf_counter()
        found = self._classify(self._shown(frame), proposals[: self._settings.limit])
        self.timing_ms = {**self._propose.timing_ms, "classify": (time.perf_counter() - start) * 1e3}
        return found

    def _shown(self, frame: Frame | NDArray[np.uint8]) -> NDArray[np.uint8] | DevicePicture:
        """The picture to cut from: in the GPU's memory where the classifier runs there and it lies there already."""
        given = frame.picture if isinstance(frame, Frame) else frame
        if self._classifier.device is None:
            return given if isinstance(given, np.ndarray) else given.download()
        same = self._propose.device is self._classifier.device
        kept = self._propose.picture() if same else None
        if kept is not None:
            return kept
        return given.download() if isinstance(given, Nv12Picture) else given

    def _classify(self, picture: NDArray[np.uint8] | DevicePicture, proposals: Detections) -> Detections:
        names = self._settings.names
        if not len(proposals):
            return Detections.empty(names)
        size_wh = picture.size_wh if isinstance(picture, DevicePicture) else picture.shape[1::-1]
        cuts = [grown(xyxy, size_wh, self._settings.padding, None) for xyxy in proposals.xyxy]
        if isinstance(picture, DevicePicture) and is_nv12(picture.pixel_format):
            cuts = [(x1 - x1 % 2, y1 - y1 % 2, x2, y2) for x1, y1, x2, y2 in cuts]
        scores, boxes = np.empty((len(cuts), len(names)), np.float32), proposals.xyxy.copy()
        for start in range(0, len(cuts), _CROPS):  # overlapping crops together may be larger than memory
            some = cuts[start : start + _CROPS]
            for index, answer in enumerate(self._classifier.batch(_crops(picture, some)), start):
                assert isinstance(answer, Classification)
                scores[index] = answer.scores
                if answer.xyxy is not None:
                    boxes[index] = answer.xyxy + np.array(cuts[index][:2] * 2, np.float32)
        rows, confidence, class_id = keep(boxes, scores, self._settings.nms, self._settings.thresholds)
        data: dict[str, NDArray[Any]] = {name: values[rows] for name, values in proposals.data.items()}
        if not isinstance(self._propose, _FunctionLane):
            data["proposal_confidence"] = proposals.confidence[rows]
            data["proposal_class_id"] = proposals.class_id[rows]
        return Detections(boxes[rows], confidence, class_id, names, data=data)

    def close(self) -> None:
        """Free both lanes; may be called twice."""
        self._propose.close()
        self._classifier.close()


class _FunctionLane:
    """A function in the place of a detector's lane; it sees pictures on the host."""

    device: object = None

    def __init__(self, propose: Proposals) -> None:
        self._propose = propose
        self.timing_ms: dict[str, float] = {}

    def __call__(self, frame: Frame | NDArray[np.uint8]) -> Detections:
        """Its boxes, as far as they lie in the picture.

        Raises:
            UsageError: what it returns are no boxes.
        """
        image = frame.image if isinstance(frame, Frame) else frame
        start = time.perf_counter()
        boxes = np.asarray(self._propose(image))
        self.timing_ms = {"propose": (time.perf_counter() - start) * 1e3}
        if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind not in "fiu" or not np.isfinite(boxes).all():
            raise UsageError(
                f"a source of proposals returns finite corners (n, 4), x1, y1, x2, y2 in pixels; got {boxes.dtype} "
                f"{boxes.shape}"
            )
        xyxy = np.clip(boxes, 0, np.array(image.shape[1::-1] * 2)).astype(np.float32)
        xyxy = xyxy[(xyxy[:, 2:] > xyxy[:, :2]).all(axis=1)]
        return Detections(xyxy, np.ones(len(xyxy), np.float32), np.zeros(len(xyxy), np.int64))

    def picture(self) -> DevicePicture | None:
        """Nothing of it lies in a GPU's memory."""
        return None

    def close(self) -> None:
        """Nothing to free."""


def _crops(picture: NDArray[np.uint8] | DevicePicture, cuts: Sequence[Box]) -> list[NDArray[np.uint8] | DevicePicture]:
    if isinstance(picture, DevicePicture):
        return [picture.part(*cut) for cut in cuts]
    return [np.ascontiguousarray(picture[y1:y2, x1:x2]) for x1, y1, x2, y2 in cuts]


def load_classifier(path: Path | str, *, backend: str = "auto", device: int = 0, quiet: bool = False) -> Model:
    """A classifier's bundle for a cascade: like `edgevision.load`, and on a GPU with an engine for eight crops at once,
    where its graph takes several pictures.

    Raises: as `edgevision.load`.
    """
    target, _ = choose_backend(backend, "auto", device)
    bundle, build = Bundle(path), None
    graphs = bundle.manifest.graphs
    if target is not None and all(info.dynamic_batch for name, info in graphs.items() if name != "cpu.onnx"):
        build = BuildOptions(bundle.manifest.precision, batch=(_CROPS,) * 3)
    return Model(bundle, backend=backend, device=device, build=build, threads=1, quiet=quiet)
