"""A lane on a GPU: upload, preprocess, infer, postprocess, with one wait at the end.

    host    picture -> pinned staging                                           boxes (a few hundred bytes)
                         | one upload                                               ^ written by the GPU, or one copy
    device            source -> preprocess -> input -> engine -> outputs -> postprocess
                                \\____________ one CUDA graph ____________________/

Everything is allocated when the lane opens, or when a larger picture comes. The second run of a shape is captured as a
CUDA graph and replayed from then on; where the driver or TensorRT refuses, the kernels are launched one by one, and
the reason is noted. Two lanes in two threads overlap: one uploads and preprocesses while the other infers.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgevision.backends.base import TensorSpec
from edgevision.backends.engine import Engine, EngineContext
from edgevision.device_results import open_finish
from edgevision.errors import BundleError, DeviceError, EdgeVisionError, SessionError, UsageError
from edgevision.frame import DevicePicture, Frame, check_picture
from edgevision.geometry import Placement
from edgevision.kernels.cuda_preprocess import CudaPreprocessor
from edgevision.manifest import Manifest, Preprocess
from edgevision.nv12 import Nv12Picture
from edgevision.postprocess import Selection
from edgevision.results import Result

if TYPE_CHECKING:
    from edgevision.cuda import Buffer, Graph, Module, Pinned

_log = logging.getLogger(__name__)
Picture = NDArray[np.uint8] | Nv12Picture | DevicePicture


class _Closes(Protocol):
    def close(self) -> None: ...


Handle = TypeVar("Handle", bound=_Closes)


class LaneState:
    """What the lanes of one engine found out.

    Attributes:
        captures: whether to try CUDA graphs; one refusal ends it.
        captured: whether a lane runs from one.
        notes: what is not as fast as it could be and why, each once.
    """

    def __init__(self) -> None:
        self.captures, self.captured = True, False
        self.notes: list[str] = []
        self._lock = threading.Lock()

    def note(self, text: str) -> None:
        """Keep a note, and log it the first time."""
        with self._lock:
            if text not in self.notes:
                self.notes.append(text)
                _log.warning("%s", text)


class DeviceLane:
    """One worker's way through a model on a GPU. Not for use from two threads at once; results are new arrays.

    Attributes:
        timing_ms: duration of the last call's stages on the GPU: `preprocess` (upload included), `inference`,
            `postprocess` (the result's way to the host included).
        perturb: as of the CPU's lanes, but refused: the input never leaves the GPU.
        device: the GPU that it runs on.
    """

    def __init__(
        self,
        engine: Engine,
        module: Module,
        manifest: Manifest,
        graph_name: str,
        selection: Selection | None,
        state: LaneState,
    ) -> None:
        """
        Args:
            engine: may be shared with other lanes.
            module: the compiled kernels.
            manifest: the bundle's.
            graph_name: the graph that the engine was built from.
            selection: which detections are wanted; None for tasks without boxes.
            state: shared by the lanes of one engine.

        Raises:
            BundleError: the engine's tensors do not fit the manifest.
            DeviceError, SessionError: the GPU lacks the memory, or a call to its driver failed.
        """
        self._device = self.device = engine.device
        self._spec = manifest.preprocess_of(graph_name)
        self._batch = engine.batch
        self._open: list[_Closes] = []
        self._graph: Graph | None = None
        self._last: tuple[Picture, int] | None = None  # the first picture of the last batch, and where it lies
        self._shape: tuple[int, int] | None = None  # what the last eager run, or the graph, was for
        self._state = state
        self.timing_ms: dict[str, float] = {}
        self.perturb: Callable[[NDArray[Any]], NDArray[Any]] | None = None
        try:
            self._stream = self._own(self._device.stream())
            self._start, self._prepared, self._inferred, self._done = (
                self._own(self._device.event()) for _ in range(4)
            )
            self._context: EngineContext = self._own(engine.open_context())
            spec = check_input(engine, self._spec)
            self._input = self._bound(spec).address
            self._preprocess = self._own(CudaPreprocessor(self._device, module, self._spec, spec.shape[0], spec.dtype))
            outputs = {spec.name: (spec, self._bound(spec).address) for spec in engine.outputs}
            self._finish = self._own(
                open_finish(
                    self._device,
                    module,
                    manifest,
                    selection,
                    outputs,
                    self._preprocess.pictures_address,
                    self._spec.input_wh,
                )
            )
            self._sources = self._own(_Sources(engine, self._batch[2]))
        except BaseException:
            self.close()
            raise
        if self._finish.note:
            state.note(self._finish.note)

    def _own(self, handle: Handle) -> Handle:
        self._open.append(handle)
        return handle

    def _bound(self, spec: TensorSpec) -> Buffer:
        """Device memory for a tensor, bound to the context."""
        nbytes = int(np.prod(spec.shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize
        buffer = self._own(self._device.allocate(nbytes))
        self._context.bind(spec.name, buffer.address)
        return buffer

    def __call__(self, frame: Frame | Picture) -> Result:
        """Detections or a class map, in pixels of the given picture.

        Args:
            frame: a Frame, an (h, w, 3) uint8 BGR picture, one in NV12, or a picture in this GPU's memory.

        Raises:
            UsageError: it is not a picture.
            SessionError, DeviceError: inference failed, or the lane is closed.
        """
        return self.batch((frame,))[0]

    @property
    def most(self) -> int:
        """Pictures that the engine takes at once."""
        return self._batch[2]

    def batch(self, frames: Sequence[Frame | Picture]) -> list[Result]:
        """Several pictures at once, of any sizes; results in their order. More than the engine takes are split.

        Raises: as for one.
        """
        if not self._open:
            raise SessionError("this lane is closed; open another one")
        if self.perturb is not None:
            raise UsageError("only the CPU backend can change the network's input: use backend cpu")
        pictures = [frame.picture if isinstance(frame, Frame) else frame for frame in frames]
        for picture in pictures:
            if not isinstance(picture, Nv12Picture | DevicePicture):
                check_picture(picture)
        most, results = self._batch[2], list[Result]()
        for start in range(0, len(pictures), most):
            try:
                with self._device.current():
                    results += self._run(pictures[start : start + most])
            except BaseException:
                # What is under way still reads and writes the lane's buffers.
                with contextlib.suppress(EdgeVisionError):
                    self._stream.synchronize()
                raise
        return results

    def picture(self) -> DevicePicture | None:
        """The last picture where it lies in the GPU's memory, until the next call; None before the first."""
        if self._last is None:
            return None
        picture, address = self._last
        if isinstance(picture, DevicePicture):
            return picture
        size_wh, pixel_format, pitch_bytes, _ = _on_host(picture)
        download = picture.download if isinstance(picture, Nv12Picture) else lambda: picture
        return DevicePicture(address, size_wh, pixel_format, pitch_bytes, download)

    def _run(self, pictures: Sequence[Picture]) -> list[Result]:
        stream, finish = self._stream, self._finish
        self._start.record(stream)
        placements = self._place(pictures)
        finish.fit(placements)
        self._work_on(max(len(pictures), self._batch[0]))
        finish.fetch(stream)
        self._done.record(stream)
        self._done.synchronize()
        self.timing_ms = {
            "preprocess": self._start.elapsed_ms(self._prepared),
            "inference": self._prepared.elapsed_ms(self._inferred),
            "postprocess": self._inferred.elapsed_ms(self._done),
        }
        return finish.results(placements)

    def _place(self, pictures: Sequence[Picture]) -> list[Placement]:
        """Pixels on their way to the GPU, and every slot's record up to date."""
        self._sources.fit(pictures)
        placements = []
        for i, picture in enumerate(pictures):
            if isinstance(picture, DevicePicture):
                self._last = (picture, picture.address) if i == 0 else self._last
                placements.append(
                    self._preprocess.place(
                        i,
                        *picture.size_wh,
                        picture.pixel_format,
                        picture.pitch_bytes,
                        picture.address,
                        self._stream,
                        chroma_address=picture.chroma_address,
                        chroma_pitch_bytes=picture.chroma_pitch_bytes,
                    )
                )
                continue
            size_wh, pixel_format, pitch_bytes, pixels = _on_host(picture)
            address = self._sources.upload(i, pixels, self._stream)
            self._last = (picture, address) if i == 0 else self._last
            placements.append(self._preprocess.place(i, *size_wh, pixel_format, pitch_bytes, address, self._stream))
        for i in range(len(pictures), self._batch[2]):
            self._preprocess.clear(i, self._stream)
        return placements

    def _work_on(self, count: int) -> None:
        """Preprocess, infer and postprocess `count` slots: from the graph where there is one for them."""
        shape = (count, self._finish.generation)
        if shape != self._shape:
            self._drop_graph()
            self._shape = None
            self._context.set_batch(count)
            self._work()  # TensorRT wants one run after a change of shapes before it is captured
            self._shape = shape
            return
        if self._graph is None and self._state.captures:
            try:
                self._graph = self._device.capture(self._stream, self._work)
                self._state.captured = True
            except (DeviceError, SessionError) as error:
                self._state.captures = False
                self._state.note(f"no CUDA graph, every kernel is launched by itself: {error}")
        if self._graph is not None:
            self._graph.launch(self._stream)
        else:
            self._work()

    def _work(self) -> None:
        stream = self._stream
        self._preprocess(self._input, stream)
        self._prepared.record(stream)
        self._context.enqueue(stream)
        self._inferred.record(stream)
        self._finish.launch(stream)

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._graph.close()
            self._graph = None

    def close(self) -> None:
        """Free everything; may be called twice."""
        with contextlib.ExitStack() as closing:
            for handle in self._open:  # the last one opened is closed first, whatever the others do
                closing.callback(handle.close)
            closing.callback(self._drop_graph)
            self._open, self._last = [], None


def _on_host(picture: NDArray[np.uint8] | Nv12Picture) -> tuple[tuple[int, int], str, int, NDArray[np.uint8]]:
    """Width and height, pixel format, bytes of a row, and the bytes."""
    if isinstance(picture, Nv12Picture):
        return picture.size_wh, picture.pixel_format, picture.size_wh[0], picture.planes
    height, width = picture.shape[:2]
    return (width, height), "bgr", 3 * width, picture


class _Sources:
    """Room on the device for the pictures of a batch, and pinned memory on the host that they are uploaded from."""

    def __init__(self, engine: Engine, slots: int) -> None:
        self._device, self._slots = engine.device, slots
        self._slot_nbytes = 0
        self._pinned: Pinned | None = None
        self._buffer: Buffer | None = None
        self._views: list[NDArray[np.uint8]] = []

    def fit(self, pictures: Sequence[Picture]) -> None:
        """Make room; the stream must be idle."""
        most = max((_on_host(p)[3].nbytes for p in pictures if not isinstance(p, DevicePicture)), default=0)
        if most > self._slot_nbytes:
            self.close()
            slot = -(-most // 256) * 256
            self._pinned = self._device.pinned((slot * self._slots,), np.uint8)
            self._buffer = self._device.allocate(slot * self._slots)
            self._views = [np.empty(0, np.uint8)] * self._slots
            self._slot_nbytes = slot

    def upload(self, index: int, picture: NDArray[np.uint8], stream: Any) -> int:
        """Put a picture on its way; returns where it will lie, tightly packed."""
        assert self._pinned is not None
        assert self._buffer is not None
        start, view = index * self._slot_nbytes, self._views[index]
        if view.shape != picture.shape:
            view = self._views[index] = self._pinned.array[start : start + picture.nbytes].reshape(picture.shape)
        np.copyto(view, picture)
        address: int = self._buffer.address + start
        self._device.upload(address, view, stream)
        return address

    def close(self) -> None:
        self._slot_nbytes, self._views = 0, []
        for handle in (self._pinned, self._buffer):
            if handle is not None:
                handle.close()
        self._pinned = self._buffer = None


def check_input(engine: Engine, preprocess: Preprocess) -> TensorSpec:
    """The engine's one input.

    Raises:
        BundleError: it is not what the manifest says.
    """
    sides = preprocess.input_shape
    got = [(spec.name, spec.shape[1:]) for spec in engine.inputs]
    wanted = (preprocess.input_name, sides)
    if got != [wanted] or engine.inputs[0].dtype not in ("float32", "float16", "uint8"):
        raise BundleError(f"the engine's inputs do not fit the manifest: expected {wanted}, got {engine.inputs}")
    return engine.inputs[0]
