"""A lane on the CPU, and the ONNX Runtime sessions that lanes share."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevision.backends.base import Session
from edgevision.backends.onnxruntime import OpenBatchSession, open_batch_session, open_session
from edgevision.bundle import Bundle
from edgevision.errors import BundleError, SessionError
from edgevision.frame import DevicePicture, Frame
from edgevision.kernels.cpu import Preprocessor
from edgevision.machine import cores
from edgevision.manifest import Manifest
from edgevision.postprocess import Selection, open_postprocess
from edgevision.results import Result

_AT_ONCE = 8
"""Pictures in one inference. Eight crops of 96 pixels took MobileNetV3 0.39 and ResNet-18 0.77 of the time that they
took one by one; more gain little and take memory."""


class Lane:
    """One worker's way through a model: preprocess, infer, postprocess, with buffers of its own.

    Not for use from two threads at once. Results are new arrays and stay valid.

    Attributes:
        timing_ms: duration of the last call's stages: `preprocess`, `inference`, `postprocess`.
        perturb: where set, it is given the input tensor and returns the one to infer instead (evaluation's dither).
        device: the GPU that it runs on: none.
    """

    device: object = None

    def __init__(
        self,
        session: Session,
        manifest: Manifest,
        graph_name: str,
        selection: Selection | None,
        open_batches: Callable[[], OpenBatchSession] | None = None,
    ) -> None:
        """
        Args:
            open_batches: gives the graph for many pictures at once, where it takes them.
        """
        self._session = session
        self._preprocess = Preprocessor(manifest.preprocess_of(graph_name))
        _check_input(session, self._preprocess)
        self._postprocess = open_postprocess(manifest, session.outputs, selection)
        self._tensor = np.empty(self._preprocess.shape, self._preprocess.dtype)
        self._picture = self._tensor[0]
        self._inputs = {self._preprocess.spec.input_name: self._tensor}
        self._open_batches = open_batches
        self._batches: OpenBatchSession | None = None
        self._tensors = np.empty((0, *self._preprocess.shape[1:]), self._preprocess.dtype)
        self.timing_ms: dict[str, float] = {}
        self.perturb: Callable[[NDArray[Any]], NDArray[Any]] | None = None

    def __call__(self, frame: Frame | NDArray[np.uint8] | DevicePicture) -> Result:
        """Detections or a class map, in pixels of the given picture.

        Args:
            frame: a Frame or an (h, w, 3) uint8 BGR picture.

        Raises:
            UsageError: it is not a picture.
            SessionError: inference failed, or the lane is closed.
        """
        start = time.perf_counter()
        placement = self._preprocess(_pixels(frame), self._picture)
        prepared = time.perf_counter()
        outputs = self._session.run(self._inputs if self.perturb is None else self._perturbed(self.perturb))
        inferred = time.perf_counter()
        result = self._postprocess(outputs, placement)
        done = time.perf_counter()
        self.timing_ms = _timing(start, prepared, inferred, done)
        return result

    def batch(self, frames: Sequence[Frame | NDArray[np.uint8] | DevicePicture]) -> list[Result]:
        """Results of several pictures, in their order: classifiers whose graph takes several are given eight at once.
        `timing_ms` is the last inference's."""
        if self._open_batches is None or self.perturb is not None or len(frames) < 2:
            return [self(frame) for frame in frames]
        if self._batches is None:
            self._batches = self._open_batches()
            self._tensors = np.empty((_AT_ONCE, *self._tensor.shape[1:]), self._tensor.dtype)
        results: list[Result] = []
        for start in range(0, len(frames), _AT_ONCE):
            results += self._together(self._batches, frames[start : start + _AT_ONCE])
        return results

    def _together(
        self, session: OpenBatchSession, frames: Sequence[Frame | NDArray[np.uint8] | DevicePicture]
    ) -> list[Result]:
        start = time.perf_counter()
        pairs = zip(frames, self._tensors, strict=False)
        placements = [self._preprocess(_pixels(frame), tensor) for frame, tensor in pairs]
        prepared = time.perf_counter()
        outputs = session.run(self._tensors[: len(frames)])
        inferred = time.perf_counter()
        results = [
            self._postprocess({name: values[i : i + 1] for name, values in outputs.items()}, placement)
            for i, placement in enumerate(placements)
        ]
        done = time.perf_counter()
        self.timing_ms = _timing(start, prepared, inferred, done)
        return results

    def picture(self) -> DevicePicture | None:
        """The last picture where it lies in a GPU's memory: nowhere."""
        return None

    def _perturbed(self, perturb: Callable[[NDArray[Any]], NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return {name: perturb(tensor) for name, tensor in self._inputs.items()}

    def close(self) -> None:
        """Free the session's buffers; may be called twice."""
        self._session.close()
        self._open_batches = self._batches = None


def _pixels(frame: Frame | NDArray[np.uint8] | DevicePicture) -> NDArray[np.uint8]:
    if isinstance(frame, DevicePicture):
        return frame.download()
    return frame.image if isinstance(frame, Frame) else frame


def _timing(start: float, prepared: float, inferred: float, done: float) -> dict[str, float]:
    return {
        "preprocess": (prepared - start) * 1e3,
        "inference": (inferred - prepared) * 1e3,
        "postprocess": (done - inferred) * 1e3,
    }


class CpuRunner:
    """One graph on ONNX Runtime; lanes with the same number of threads share one loaded copy. See model.Runner."""

    backend = "cpu"

    def __init__(self, bundle: Bundle, graph_name: str, selection: Selection | None) -> None:
        self.graph_name, self.precision = graph_name, bundle.manifest.graphs[graph_name].precision
        self._manifest, self._selection = bundle.manifest, selection
        self._graph = bundle.read(graph_name)
        self._sessions: dict[int, Session] = {}
        self._batch_sessions: dict[int, OpenBatchSession] = {}
        info = bundle.manifest.graphs[graph_name]
        # What measures many small pictures gains from more at once; a detector fills the caches with one.
        self._takes_batches = info.dynamic_batch and bundle.manifest.task == "classification"
        self._lock = threading.Lock()
        self._closed = False

    def facts(self) -> dict[str, Any]:
        """Nothing beyond the graph and its precision."""
        return {}

    def lanes(self, threads: int) -> int:
        """One for each core."""
        return max(1, cores() // threads)

    def open_lane(self, threads: int) -> Lane:
        """Another way through the graph, on so many threads."""
        with self._lock:
            if self._closed:
                raise SessionError("this model is closed; load it again")
            if threads not in self._sessions:
                exact = self.graph_name.startswith("tensorrt")
                self._sessions[threads] = open_session(self._graph, threads=threads, exact=exact)
            session = self._sessions[threads].sibling()
        batches = functools.partial(self._open_batches, threads) if self._takes_batches else None
        return Lane(session, self._manifest, self.graph_name, self._selection, batches)

    def _open_batches(self, threads: int) -> OpenBatchSession:
        with self._lock:
            if self._closed:
                raise SessionError("this model is closed; load it again")
            if threads not in self._batch_sessions:
                self._batch_sessions[threads] = open_batch_session(self._graph, threads=threads)
            return self._batch_sessions[threads]

    def close(self) -> None:
        """Free the sessions; lanes live until they are closed."""
        with self._lock:
            self._closed = True
            for session in self._sessions.values():
                session.close()
            self._sessions.clear()
            self._batch_sessions.clear()


def _check_input(session: Session, preprocess: Preprocessor) -> None:
    wanted = (preprocess.spec.input_name, preprocess.shape, preprocess.dtype.name)
    got = [(spec.name, spec.shape, spec.dtype) for spec in session.inputs]
    if got != [wanted]:
        raise BundleError(f"the graph's inputs do not fit its manifest: expected {wanted}, got {got}; export it again")
