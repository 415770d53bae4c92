"""One pass of pictures through a graph. Memory does not depend on their number, and a pass that was stopped goes on.

Worker threads share one single-threaded ONNX Runtime session and take picture after picture; each has its own input,
outputs and observer, which are merged at the end. ONNX Runtime, numpy and OpenCV release the interpreter's lock.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgevision.calibration.checkpoint import Checkpoint
from edgevision.calibration.growth import SHARES
from edgevision.calibration.images import CalibrationImages
from edgevision.calibration.observation import ObservedGraph
from edgevision.errors import CalibrationError
from edgevision.kernels.cpu import Preprocessor
from edgevision.machine import cores
from edgevision.manifest import Preprocess
from edgevision.progress import Progress

_MEMORY_BYTES: Final = 1 << 30
"""All workers' outputs together; fewer workers run where a graph needs more."""
_SAVE_S: Final = 5.0
_ALIGNED: Final = 16
"""Values in 64 bytes, the alignment that ONNX Runtime gives its own tensors."""

Tensors = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Picture:
    """What an observer may know of the picture whose tensors it sees.

    Attributes:
        name: for messages.
        digest: SHA-256 of the file.
        share: 0..SHARES - 1, drawn by content.
    """

    name: str
    digest: str
    share: int

    @property
    def phase(self) -> int:
        """A number drawn by content."""
        return int(self.digest or "0", 16)


class Observer(Protocol):
    """Learns something from every picture. What it has learnt in the end may not depend on their order."""

    def see(self, tensors: Tensors, picture: Picture) -> None:
        """One picture's tensors, by observed name, and what else the graph shows; the next picture's overwrite them.

        Raises:
            CalibrationError: a value is not finite.
        """
        ...

    def merge(self, other: Any) -> None:
        """Add what another observer of the same kind has learnt from other pictures."""
        ...

    def to_json(self) -> dict[str, Any]:
        """What it has learnt so far."""
        ...

    def restore(self, data: Any) -> None:
        """Learn what `to_json` told, in a file that anybody may have written.

        Raises:
            ValueError, TypeError, KeyError: it is damaged.
        """
        ...


Seen = TypeVar("Seen", bound=Observer)


def run_pass(
    observed: ObservedGraph,
    new: Callable[[], Seen],
    images: CalibrationImages,
    preprocess: Preprocess,
    *,
    label: str,
    checkpoint: Checkpoint | None = None,
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
        checkpoint: where a pass that was stopped left its findings; this one goes on from there, leaves its own now
            and then and when it is interrupted, and none at the end.
        workers: threads; None: one per core that this process may use.
        quiet: no progress.

    Raises:
        CalibrationError: no picture can be read, or an observer refuses one.
        OSError: the checkpoint cannot be written.
    """
    count = min(workers or cores(), len(images), max(1, _MEMORY_BYTES // (4 * _values(observed.session))))
    team = [_Worker(observed, preprocess, new()) for _ in range(count)]
    if checkpoint is not None:
        team[0].done += checkpoint.load(team[0].observer.restore)
    finished = len(team[0].done)
    stop, lock, left = threading.Event(), threading.Lock(), _left(images, team[0].done)

    with Progress(label, len(images), quiet=quiet) as progress:
        progress.update(finished)

        def work(worker: _Worker[Seen]) -> None:
            while not stop.is_set():
                with lock:
                    index, share = next(left, (None, 0))
                if index is None:
                    return
                image = images.read(index)
                if image is not None:
                    worker.show(image, Picture(images.names[index], images.digests[index], share))
                with lock:
                    progress.update()

        def save() -> None:
            if checkpoint is not None:
                total, done = new(), []
                for worker in team:
                    with worker.lock:
                        total.merge(worker.observer)
                        done += worker.done
                checkpoint.save(done, total.to_json())

        try:
            with ThreadPoolExecutor(count, "calibration") as pool:
                pending = {pool.submit(work, worker) for worker in team}
                due = time.monotonic() + _SAVE_S
                try:
                    while pending:
                        done, pending = wait(pending, timeout=0.5, return_when=FIRST_EXCEPTION)
                        for future in done:
                            future.result()
                        if time.monotonic() > due:
                            save()
                            due = time.monotonic() + _SAVE_S
                finally:
                    stop.set()  # on an error or Ctrl-C every worker finishes its picture and ends
        except KeyboardInterrupt:
            save()
            raise

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
    """Buffers and observer of one thread.

    Attributes:
        observer: what it has learnt.
        done: digests of the pictures it has seen.
        lock: held while both change.
    """

    def __init__(self, observed: ObservedGraph, preprocess: Preprocess, observer: Seen) -> None:
        self.observer = observer
        self.done: list[str] = []
        self.lock = threading.Lock()
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
        self._tensors |= {name: arrays[name] for name in observed.shown}

    def show(self, image: NDArray[np.uint8], picture: Picture) -> None:
        """Run one picture."""
        self._preprocessor(image, self._slot)
        self._session.run_with_iobinding(self._binding)
        with self.lock, np.errstate(invalid="ignore", over="ignore"):  # what is not finite is reported in words
            self.observer.see(self._tensors, picture)
            self.done.append(picture.digest)


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


def _left(images: CalibrationImages, done: list[str]) -> Iterator[tuple[int, int]]:
    """Index and share of each picture that is not done. Equal pictures have equal digests: they are done one by one."""
    finished, count = Counter(done), len(images)
    for rank, index in enumerate(sorted(range(count), key=lambda index: images.digests[index])):
        if finished[images.digests[index]]:
            finished[images.digests[index]] -= 1
        else:
            yield index, rank * SHARES // count
