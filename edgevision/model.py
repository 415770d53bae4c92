"""A bundle, ready to be called with pictures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgevision.backends.build_options import BuildOptions
from edgevision.backends.tensorrt_api import load_api
from edgevision.bundle import Bundle
from edgevision.cpu_lane import CpuRunner
from edgevision.errors import DependencyError, DeviceError, UsageError
from edgevision.frame import DevicePicture, Frame
from edgevision.machine import cores
from edgevision.manifest import PRECISIONS, Manifest
from edgevision.postprocess import select
from edgevision.results import Result

if TYPE_CHECKING:
    from edgevision.device_model import Target

BACKENDS = ("auto", "cpu", "tensorrt", "tensorrt-rtx")

# The graphs of each kind, the one to prefer first.
_KINDS = {
    "auto": ("cpu.onnx", "model.onnx", "tensorrt.onnx", "tensorrt_fp16.onnx"),
    "cpu": ("cpu.onnx", "model.onnx"),
    "tensorrt": ("tensorrt.onnx", "tensorrt_fp16.onnx"),
}


class AnyLane(Protocol):
    """One worker's way through a model: cpu_lane.Lane or device_lane.DeviceLane.

    Attributes:
        timing_ms, perturb: see there.
        device: the GPU (cuda.Device) that it runs on; None on a CPU.
    """

    timing_ms: dict[str, float]
    perturb: Callable[[NDArray[Any]], NDArray[Any]] | None

    @property
    def device(self) -> object | None: ...

    def __call__(self, frame: Frame | NDArray[np.uint8]) -> Result: ...

    def batch(self, frames: Sequence[Frame | NDArray[np.uint8] | DevicePicture]) -> list[Result]: ...

    def picture(self) -> DevicePicture | None: ...

    def close(self) -> None: ...


class Runner(Protocol):
    """A loaded graph on one backend.

    Attributes:
        backend: one of BACKENDS but `auto`.
        graph_name: the bundle's graph that runs.
        precision: what it computes in.
    """

    backend: str
    graph_name: str
    precision: str

    def facts(self) -> dict[str, Any]: ...

    def lanes(self, threads: int) -> int: ...

    def open_lane(self, threads: int) -> AnyLane: ...

    def close(self) -> None: ...


class Model:
    """A bundle opened for inference. Call it with a picture; it may be called from several threads, which then
    take turns: for parallel work give each thread a lane (`open_lane`).

    Attributes:
        manifest: the bundle's.
        backend: what runs it: `cpu`, `tensorrt` or `tensorrt-rtx`.
        backend_reason: why that one.
        graph_name: the graph that runs.
        precision: what it computes in.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        backend: str = "auto",
        device: int = 0,
        precision: str | None = None,
        graph: str = "auto",
        build: BuildOptions | None = None,
        threads: int | None = None,
        confidence: float | Mapping[str | int, float] | None = None,
        iou: float | None = None,
        classes: Sequence[str | int] | None = None,
        max_detections: int | None = None,
        quiet: bool = False,
    ) -> None:
        """See `load`."""
        self.manifest = bundle.manifest
        cpu_graph = choose_graph(self.manifest, precision, graph)
        selection = select(self.manifest, confidence, iou, classes, max_detections)
        target, self.backend_reason = choose_backend(backend, graph, device)
        self._runner: Runner
        if target is None:
            if build is not None:
                raise UsageError(f"build options are for an engine, but the CPU runs this model: {self.backend_reason}")
            self._runner = CpuRunner(bundle, cpu_graph, selection)
        else:
            self._runner = target.load(bundle, build_options(self.manifest, precision, build), selection, quiet=quiet)
        self.backend, self.graph_name = self._runner.backend, self._runner.graph_name
        self.precision = self._runner.precision
        self._lock = threading.Lock()
        try:
            self._lane = self.open_lane(cores() if threads is None else threads)
        except BaseException:
            self._runner.close()
            raise

    def __call__(self, frame: Frame | NDArray[np.uint8]) -> Result:
        """Detections, a class map or a classification, in pixels of the given picture; see cpu_lane.Lane."""
        with self._lock:
            return self._lane(frame)

    def batch(self, frames: Sequence[Frame | NDArray[np.uint8]]) -> list[Result]:
        """Results of several pictures of any sizes, in their order; as many at once as the engine was built for."""
        with self._lock:
            return self._lane.batch(frames)

    @property
    def timing_ms(self) -> dict[str, float]:
        """Duration of the last call's stages: `preprocess`, `inference`, `postprocess`."""
        return self._lane.timing_ms

    def facts(self) -> dict[str, Any]:
        """What runs this model, for reports: `backend`, `backend_reason`, `graph`, `precision`; on a GPU also `gpu`,
        `runtime`, `rung` and why it is not a higher one (`reasons`), `cuda_graph`, `notes`."""
        return {
            "backend": self.backend,
            "backend_reason": self.backend_reason,
            "graph": self.graph_name,
            "precision": self.precision,
            **self._runner.facts(),
        }

    def lanes(self, threads: int = 1) -> int:
        """How many lanes side by side make the most of this machine: one per core on a CPU, two on a GPU, where one
        uploads and preprocesses while the other infers."""
        return self._runner.lanes(threads)

    def open_lane(self, threads: int = 1) -> AnyLane:
        """Another way through the model, for another thread; close it after use. All lanes share one loaded graph or
        engine.

        Args:
            threads: cores that one inference uses; a GPU's lanes need none.

        Raises:
            UsageError: threads is less than 1.
            SessionError, BundleError: the graph cannot be loaded, or does not fit its manifest.
            DeviceError: the GPU has no memory for another lane.
        """
        if threads < 1:
            raise UsageError(f"threads is at least 1, got {threads}")
        return self._runner.open_lane(threads)

    def close(self) -> None:
        """Free the model; lanes opened from it live until they are closed. May be called twice."""
        with self._lock:
            self._lane.close()
            self._runner.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load(
    path: Path | str,
    *,
    backend: str = "auto",
    device: int = 0,
    precision: str | None = None,
    graph: str = "auto",
    build: BuildOptions | None = None,
    threads: int | None = None,
    confidence: float | Mapping[str | int, float] | None = None,
    iou: float | None = None,
    classes: Sequence[str | int] | None = None,
    max_detections: int | None = None,
    quiet: bool = False,
) -> Model:
    """Open a bundle for inference on this machine.

    On a GPU the engine comes from the user's cache; where it is not there yet it is built, which takes minutes once.

    Args:
        path: the bundle.
        backend: `cpu`, `tensorrt` or `tensorrt-rtx`. `auto`: TensorRT where it is installed and finds a GPU, else the
            CPU; the model says which and why.
        device: number of the GPU.
        precision: `fp32`, `fp16` or `int8`; None: what the bundle says is best.
        graph: `cpu` or `tensorrt`: whose form of the graph to run on the CPU. TensorRT's runs with its own numerics,
            unfused and slow, to measure accuracy. `auto` prefers the CPU's.
        build: how an engine is built, for more than one picture at a time, an accelerator or a memory limit.
        threads: cores that one call uses on a CPU; None: all this process may use.
        confidence: least confidence, or a mapping from class name or number to one.
        iou: NMS threshold.
        classes: names or numbers of the classes to report; others neither appear nor suppress.
        max_detections: boxes per picture.
        quiet: show no progress while an engine is built.

    Raises:
        BundleError: the file is missing, damaged or not a bundle, or its graph does not fit its manifest.
        UsageError: an option is out of range, or the bundle has no such graph.
        BuildError: TensorRT cannot build the graph at any precision.
        SessionError: the graph cannot be loaded.
        DependencyError: onnxruntime or OpenCV is missing; TensorRT is, where it was asked for.
        DeviceError: the GPU cannot be used, or lacks the memory.
    """
    return Model(
        Bundle(path),
        backend=backend,
        device=device,
        precision=precision,
        graph=graph,
        build=build,
        threads=threads,
        confidence=confidence,
        iou=iou,
        classes=classes,
        max_detections=max_detections,
        quiet=quiet,
    )


def choose_backend(backend: str, graph: str, device: int) -> tuple[Target | None, str]:
    """Where to run: a GPU with its TensorRT, or None for the CPU; and why.

    Raises:
        UsageError: there is no such backend, or a form of the graph was asked for that only the CPU runs.
        DependencyError, DeviceError: the backend asked for cannot be used.
    """
    if backend not in BACKENDS:
        raise UsageError(f"backend is one of {', '.join(BACKENDS)}, got {backend!r}")
    if graph != "auto" and backend not in ("auto", "cpu"):
        raise UsageError(f"graph {graph!r} chooses among the CPU's graphs: leave it out with backend {backend}")
    if backend == "cpu":
        return None, "it was asked for"
    if graph != "auto":
        return None, f"graph {graph} was asked for"
    try:
        api = load_api("tensorrt" if backend == "auto" else backend)
        from edgevision.device_model import open_target

        target = open_target(api, device)
    except (DependencyError, DeviceError) as error:
        if backend != "auto":
            raise
        return None, str(error)
    return target, f"{api.title} finds {target.device.name}" if backend == "auto" else "it was asked for"


def build_options(manifest: Manifest, precision: str | None, build: BuildOptions | None) -> BuildOptions:
    """How to build an engine.

    Raises:
        UsageError: the precision is given twice, differently.
    """
    if build is None:
        return BuildOptions(precision or manifest.precision)
    if precision not in (None, build.precision):
        raise UsageError(f"precision {precision} was asked for, and {build.precision} in the build options")
    return build


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
