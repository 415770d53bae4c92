"""A bundle, ready to be called with pictures."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevision.backends.base import Session
from edgevision.backends.onnxruntime import open_session
from edgevision.bundle import Bundle
from edgevision.errors import BundleError, SessionError, UsageError
from edgevision.frame import Frame
from edgevision.kernels.cpu import Preprocessor
from edgevision.machine import cores
from edgevision.manifest import PRECISIONS, Manifest
from edgevision.postprocess import Selection, open_postprocess, select
from edgevision.results import Result

# The graphs of each kind, the one to prefer first.
_KINDS = {
    "auto": ("cpu.onnx", "model.onnx", "tensorrt.onnx", "tensorrt_fp16.onnx"),
    "cpu": ("cpu.onnx", "model.onnx"),
    "tensorrt": ("tensorrt.onnx", "tensorrt_fp16.onnx"),
}


class Lane:
    """One worker's way through a model: preprocess, infer, postprocess, with buffers of its own.

    Not for use from two threads at once. Results are new arrays and stay valid.

    Attributes:
        timing_ms: duration of the last call's stages: `preprocess`, `inference`, `postprocess`.
        perturb: where set, it is given the input tensor and returns the one to infer instead (evaluation's dither).
    """

    def __init__(self, session: Session, manifest: Manifest, graph_name: str, selection: Selection | None) -> None:
        self._session = session
        self._preprocess = Preprocessor(manifest.preprocess_of(graph_name))
        _check_input(session, self._preprocess)
        self._postprocess = open_postprocess(manifest, session.outputs, selection)
        self._tensor = np.empty(self._preprocess.shape, self._preprocess.dtype)
        self._picture = self._tensor[0]
        self._inputs = {self._preprocess.spec.input_name: self._tensor}
        self.timing_ms: dict[str, float] = {}
        self.perturb: Callable[[NDArray[Any]], NDArray[Any]] | None = None

    def __call__(self, frame: Frame | NDArray[np.uint8]) -> Result:
        """Detections or a class map, in pixels of the given picture.

        Args:
            frame: a Frame or an (h, w, 3) uint8 BGR picture.

        Raises:
            UsageError: it is not a picture.
            SessionError: inference failed, or the lane is closed.
        """
        image = frame.image if isinstance(frame, Frame) else frame
        start = time.perf_counter()
        placement = self._preprocess(image, self._picture)
        prepared = time.perf_counter()
        outputs = self._session.run(self._inputs if self.perturb is None else self._perturbed(self.perturb))
        inferred = time.perf_counter()
        result = self._postprocess(outputs, placement)
        done = time.perf_counter()
        self.timing_ms = {
            "preprocess": (prepared - start) * 1e3,
            "inference": (inferred - prepared) * 1e3,
            "postprocess": (done - inferred) * 1e3,
        }
        return result

    def _perturbed(self, perturb: Callable[[NDArray[Any]], NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return {name: perturb(tensor) for name, tensor in self._inputs.items()}

    def close(self) -> None:
        """Free the session's buffers; may be called twice."""
        self._session.close()


class Model:
    """A bundle opened for inference. Call it with a picture; it may be called from several threads, which then
    take turns: for parallel work give each thread a lane (`open_lane`).

    Attributes:
        manifest: the bundle's.
        graph_name: the graph that runs.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        precision: str | None = None,
        graph: str = "auto",
        threads: int | None = None,
        confidence: float | Mapping[str | int, float] | None = None,
        iou: float | None = None,
        classes: Sequence[str | int] | None = None,
        max_detections: int | None = None,
    ) -> None:
        """See `load`."""
        self.manifest = bundle.manifest
        self.graph_name = choose_graph(self.manifest, precision, graph)
        self._selection = select(self.manifest, confidence, iou, classes, max_detections)
        self._graph = bundle.read(self.graph_name)
        self._sessions: dict[int, Session] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._lane = self.open_lane(cores() if threads is None else threads)

    def __call__(self, frame: Frame | NDArray[np.uint8]) -> Result:
        """Detections or a class map, in pixels of the given picture; see Lane."""
        with self._lock:
            return self._lane(frame)

    @property
    def timing_ms(self) -> dict[str, float]:
        """Duration of the last call's stages: `preprocess`, `inference`, `postprocess`."""
        return self._lane.timing_ms

    def open_lane(self, threads: int = 1) -> Lane:
        """Another way through the model, for another thread; close it after use. Lanes with the same number of
        threads share one loaded graph.

        Args:
            threads: cores that one inference uses. For throughput: one lane per core, one thread each.

        Raises:
            UsageError: threads is less than 1.
            SessionError, BundleError: the graph cannot be loaded, or does not fit its manifest.
        """
        if threads < 1:
            raise UsageError(f"threads is at least 1, got {threads}")
        if self._closed:
            raise SessionError("this model is closed; load it again")
        with self._lock:
            if threads not in self._sessions:
                exact = self.graph_name.startswith("tensorrt")
                self._sessions[threads] = open_session(self._graph, threads=threads, exact=exact)
            session = self._sessions[threads].sibling()
        return Lane(session, self.manifest, self.graph_name, self._selection)

    def close(self) -> None:
        """Free the model; lanes opened from it live until they are closed. May be called twice."""
        with self._lock:
            self._closed = True
            self._lane.close()
            for session in self._sessions.values():
                session.close()
            self._sessions.clear()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load(
    path: Path | str,
    *,
    precision: str | None = None,
    graph: str = "auto",
    threads: int | None = None,
    confidence: float | Mapping[str | int, float] | None = None,
    iou: float | None = None,
    classes: Sequence[str | int] | None = None,
    max_detections: int | None = None,
) -> Model:
    """Open a bundle for inference on this machine's CPU.

    Args:
        path: the bundle.
        precision: `fp32`, `fp16` or `int8`; None: what the bundle says is best on a CPU.
        graph: `cpu` or `tensorrt`: whose form of the graph to run. TensorRT's runs with its own numerics, unfused
            and slow, to measure accuracy. `auto` prefers the CPU's.
        threads: cores that one call uses; None: all this process may use.
        confidence: least confidence, or a mapping from class name or number to one.
        iou: NMS threshold.
        classes: names or numbers of the classes to report; others neither appear nor suppress.
        max_detections: boxes per picture.

    Raises:
        BundleError: the file is missing, damaged or not a bundle, or its graph does not fit its manifest.
        UsageError: an option is out of range, or the bundle has no such graph.
        SessionError: the graph cannot be loaded.
        DependencyError: onnxruntime or OpenCV is missing.
    """
    return Model(
        Bundle(path),
        precision=precision,
        graph=graph,
        threads=threads,
        confidence=confidence,
        iou=iou,
        classes=classes,
        max_detections=max_detections,
    )


def choose_graph(manifest: Manifest, precision: str | None, graph: str) -> str:
    """File name of the graph to run.

    Raises:
        UsageError: the bundle has no graph of that precision and kind.
    """
    if graph not in _KINDS or precision not in (None, *PRECISIONS):
        raise UsageError(f"graph is one of {tuple(_KINDS)} and precision one of {PRECISIONS}, got {graph}, {precision}")
    if precision is None and graph != "tensorrt":
        return manifest.cpu_graph
    for name in _KINDS[graph]:
        if name in manifest.graphs and precision in (None, manifest.graphs[name].precision):
            return name
    held = ", ".join(f"{name} ({info.precision})" for name, info in manifest.graphs.items())
    raise UsageError(f"{manifest.name} has no graph for precision {precision}, graph {graph}; it holds {held}")


def _check_input(session: Session, preprocess: Preprocessor) -> None:
    wanted = (preprocess.spec.input_name, preprocess.shape, preprocess.dtype.name)
    got = [(spec.name, spec.shape, spec.dtype) for spec in session.inputs]
    if got != [wanted]:
        raise BundleError(f"the graph's inputs do not fit its manifest: expected {wanted}, got {got}; export it again")
