"""One pass of pictures through a graph. Memory does not depend on their number.

Worker threads share one single-threaded ONNX Runtime session and take picture after picture; each has its own input,
outputs and observer, which are merged at the end. ONNX Runtime, numpy and OpenCV release the interpreter's lock.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgevision.calibration.images import CalibrationImages
from edgevision.calibration.observation import ObservedGraph
from edgevision.errors import CalibrationError
from edgevision.kernels.cpu import Preprocessor
from edgevision.machine import cores
from edgevision.manifest import Preprocess
from edgevision.progress import Progress

_MEMORY_BYTES: Final = 1 << 30
"""All workers' outputs together; fewer workers run where a graph needs more."""
_ALIGNED: Final = 16
"""Values in 64 bytes, the alignment that ONNX Runtime gives its own tensors."""

Tensors = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Picture:
    """What an observer may know of the picture whose tensors it sees.

    Attributes:
        name: for messages.
        digest: SHA-256 of the file.
        held_back: whether it is one of the quarter, drawn by content, that shows if there are enough pictures.
    """

    name: str
    digest: str
    held_back: bool

    @property
    def phase(self) -> int:
        """A number drawn by content."""
        return int(self.digest or "0", 16)


class Observer(Protocol):
    """Learns something from every picture. What it has learnt in the end may not depend on their order."""

    def see(self, tensors: Tensors, picture: Picture) -> None:
        """One picture's tensors, by observed name; they are overwritten by the next picture's.

        Raises:
            CalibrationError: a value is not finite.
        """
        ...

    def merge(self, other: Any) -> None:
        """Add what another observer of the same kind has learnt from other pictures."""
        ...


Seen = TypeVar("Seen", bound=Observer)


def run_pass(
    observed: ObservedGraph,
    new: Callable[[], Seen],
    images: CalibrationImages,
    preprocess: Preprocess,
    *,
    label: str,
    workers: int | None = None,
    quiet: bool = False,
) -> Seen:
    """Show every readable picture's tensors to an observer.

    Args:
        observed: the graph.
        new: makes an observer; every worker has its own.
        images: the pictures.
        preprocess: how a picture becomes the input.
        label: of the progress line.
        workers: threads; None: one per core that this process may use.
        quiet: no progress.

    Raises:
        CalibrationError: no picture can be read, or an observer refuses one.
    """
    count = min(workers or cores(), len(images), max(1, _MEMORY_BYTES // (4 * _values(observed.session))))
    held_back = _held_back(images)
    stop, lock, indices = threading.Event(), threading.Lock(), iter(range(len(images)))
    team = [_Worker(observed, preprocess, new()) for _ in range(count)]

    with Progress(label, len(images), quiet=quiet) as progress:

        def work(worker: _Worker[Seen]) -> None:
            while not stop.is_set():
                with lock:
                    index = next(indices, None)
                if index is None:
                    return
                image = images.read(index)
                if image is not None:
                    worker.show(image, Picture(images.names[index], images.digests[index], index in held_back))
                with lock:
                    progress.update()

        with ThreadPoolExecutor(count, "calibration") as pool:
            pending = {pool.submit(work, worker) for worker in team}
            try:
                while pending:
                    done, pending = wait(pending, timeout=0.5, return_when=FIRST_EXCEPTION)
                    for future in done:
                        future.result()
            finally:
                stop.set()  # on an error or Ctrl-C every worker finishes its picture and ends

    images.require_some()
    total = team[0].observer
    for worker in team[1:]:
        total.merge(worker.observer)
    return total


def not_finite(tensor: str, picture: Picture, found: object) -> CalibrationError:
    """The error for a tensor that has no range."""
    return CalibrationError(
        f"tensor {tensor!r} has a value that is {found} (NaN or infinite) on picture {picture.name!r}: "
        "check the model and the preprocessing (mean, std, colour order), or leave this picture out"
    )


class _Worker(Generic[Seen]):
    """Buffers and observer of one thread."""

    def __init__(self, observed: ObservedGraph, preprocess: Preprocess, observer: Seen) -> None:
        self.observer = observer
        self._session = observed.session
        self._preprocessor = Preprocessor(preprocess)
        array: NDArray[Any] = np.zeros(self._preprocessor.shape, self._preprocessor.dtype)
        self._slot = array[0]  # always the same view: the padding is written once
        self._binding = self._session.io_binding()
        name = preprocess.input_name
        if name in {spec.name for spec in self._session.get_inputs()}:
            self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        arrays = _bound_outputs(self._session, self._binding)
        observed_names = set(observed.sources.values())
        self._tensors = {
            source: arrays[observed.outputs[source]] if source in observed.outputs else array
            for source in observed_names
        }

    def show(self, image: NDArray[np.uint8], picture: Picture) -> None:
        """Run one picture."""
        self._preprocessor(image, self._slot)
        self._session.run_with_iobinding(self._binding)
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is reported in words
            self.observer.see(self._tensors, picture)


def _bound_outputs(session: Any, binding: Any) -> dict[str, NDArray[np.float32]]:
    """One array per output, which every run writes into: all in one piece of memory, so in few large pages."""
    specs = session.get_outputs()
    arena = np.empty(_values(session), np.float32)
    arrays, start = {}, -arena.ctypes.data // 4 % _ALIGNED
    for spec in specs:
        size = math.prod(spec.shape)
        array = arrays[spec.name] = arena[start : start + size].reshape(spec.shape)
        binding.bind_output(spec.name, "cpu", 0, np.float32, spec.shape, array.ctypes.data)
        start += _padded(size)
    return arrays


def _values(session: Any) -> int:
    """Room for all outputs, in float32 values."""
    return sum((_padded(math.prod(spec.shape)) for spec in session.get_outputs()), _ALIGNED)


def _padded(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def _held_back(images: CalibrationImages) -> frozenset[int]:
    """A quarter of the pictures, drawn by content: how much they widen the ranges shows whether there are enough."""
    ranked = sorted(range(len(images)), key=lambda index: images.digests[index])
    return frozenset(ranked[len(images) - len(images) // 4 :])
