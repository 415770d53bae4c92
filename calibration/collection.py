"""Runs pictures through a graph, once, and keeps a histogram per tensor. Memory does not depend on their number.

Worker threads share one single-threaded ONNX Runtime session and take picture after picture; each has its own input,
outputs and histograms, which are merged at the end. ONNX Runtime, numpy and OpenCV release the interpreter's lock.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgevision.calibration.counting import SAMPLE, Counter
from edgevision.calibration.histogram import Histogram
from edgevision.calibration.images import CalibrationImages
from edgevision.calibration.observation import Bounds, ObservedGraph, observe
from edgevision.calibration.table import RangeTable, table_key
from edgevision.errors import CalibrationError
from edgevision.kernels.cpu import Preprocessor
from edgevision.machine import cores
from edgevision.manifest import Preprocess
from edgevision.progress import Progress

GROWTH: Final = 0.1
"""A range that the last quarter of the pictures widened by more than this share counts as still growing."""
_LEAST_SAMPLE: Final = 1 << 13
_COUNTED: Final = 30 * SAMPLE
"""So many values of a large map, from all pictures together, settle its thresholds: many pictures give few each."""
_MEMORY_BYTES: Final = 1 << 30
"""All workers' outputs together; fewer workers run where a graph needs more."""
_ALIGNED: Final = 16
"""Values in 64 bytes, the alignment that ONNX Runtime gives its own tensors."""


def collect_ranges(
    graph: bytes,
    tensors: Sequence[str],
    images: CalibrationImages,
    preprocess: Preprocess,
    *,
    workers: int | None = None,
    quiet: bool = False,
) -> RangeTable:
    """Histograms of `tensors` over all pictures, in one pass.

    The result does not depend on the order of the pictures, on their names or on the number of workers.

    Args:
        graph: a serialised ONNX model with one input and fixed shapes.
        tensors: names of float32 tensors that it computes, or of its input.
        images: the pictures; those that cannot be read are skipped and named in the table.
        preprocess: how a picture becomes the input.
        workers: threads; None: one per core that this process may use.
        quiet: no progress.

    Raises:
        CalibrationError: no picture can be read, a tensor cannot be observed, or a value is not finite.
    """
    observed = observe(graph, tensors, preprocess.input_name)
    count = min(workers or cores(), len(images), max(1, _MEMORY_BYTES // (4 * _values(observed.session))))
    held_back = _held_back(images)
    stop, lock, indices = threading.Event(), threading.Lock(), iter(range(len(images)))
    sample = min(SAMPLE, max(_LEAST_SAMPLE, _COUNTED // len(images)))
    team = [_Worker(observed, preprocess, sample) for _ in range(count)]

    with Progress("calibrating", len(images), quiet=quiet) as progress:

        def work(worker: _Worker) -> None:
            while not stop.is_set():
                with lock:
                    index = next(indices, None)
                if index is None:
                    return
                image = images.read(index)
                if image is not None:
                    phase = int(images.digests[index] or "0", 16)
                    worker.observe(image, images.names[index], phase, index in held_back)
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
    total = team[0]
    for worker in team[1:]:
        total.merge(worker)
    skipped = tuple(name for name in images.names if name in images.skipped)
    return RangeTable(
        key=table_key(graph, tensors, images, preprocess),
        images=len(images) - len(skipped),
        skipped=skipped,
        warnings=tuple(_warnings(total, len(images), skipped)),
        histograms={name: total.histograms[observed.sources[name]] for name in tensors},
    )


class _Worker:
    """Buffers and histograms of one thread."""

    def __init__(self, observed: ObservedGraph, preprocess: Preprocess, sample: int) -> None:
        self._session = observed.session
        self._preprocessor = Preprocessor(preprocess)
        self._input: NDArray[Any] = np.zeros(self._preprocessor.shape, self._preprocessor.dtype)
        self._slot = self._input[0]  # always the same view: the padding is written once
        self._binding = self._session.io_binding()
        if preprocess.input_name in {spec.name for spec in self._session.get_inputs()}:
            self._binding.bind_input(
                preprocess.input_name, "cpu", 0, self._input.dtype, self._input.shape, self._input.ctypes.data
            )
        self._arrays = _bound_outputs(self._session, self._binding)
        self._outputs, self._bounds = observed.outputs, observed.bounds
        self._counter = Counter(sample)
        sources = dict.fromkeys(observed.sources.values())
        self.histograms = {name: Histogram() for name in sources}
        self.early = dict.fromkeys(sources, 0.0)  # largest magnitude in the pictures not held back

    def observe(self, image: NDArray[np.uint8], picture: str, phase: int, held_back: bool) -> None:
        """Run one picture and count all tensors."""
        self._preprocessor(image, self._slot)
        self._session.run_with_iobinding(self._binding)
        with np.errstate(invalid="ignore"):  # what is not finite is reported below, in words
            for name, histogram in self.histograms.items():
                self._count(name, histogram, picture, phase, held_back)

    def _count(self, name: str, histogram: Histogram, picture: str, phase: int, held_back: bool) -> None:
        values = self._arrays[self._outputs[name]] if name in self._outputs else self._input
        try:
            low, high = self._counter.add(histogram, values, phase, self._known(name, histogram, held_back))
        except ValueError as error:
            raise CalibrationError(
                f"tensor {name!r} has a value that is {error} (NaN or infinite) on picture {picture!r}: "
                "check the model and the preprocessing (mean, std, colour order), or leave this picture out"
            ) from error
        if not held_back:
            self.early[name] = max(self.early[name], high, -low)

    def _known(self, name: str, histogram: Histogram, held_back: bool) -> Bounds:
        """Limits of the operator that earlier pictures have reached: this one cannot change the range any more.

        After ReLU6 that spares reading most of a large map.
        """
        if not held_back and self.early[name] < histogram.limit:
            return None, None
        low, high = self._bounds.get(name, (None, None))
        return low if histogram.minimum == low else None, high if histogram.maximum == high else None

    def merge(self, other: _Worker) -> None:
        """Add another worker's findings."""
        for name, histogram in self.histograms.items():
            histogram.merge(other.histograms[name])
            self.early[name] = max(self.early[name], other.early[name])


def _bound_outputs(session: Any, binding: Any) -> dict[str, NDArray[np.float32]]:
    """One array per output, flat, which every run writes into: all in one piece of memory, so in few large pages."""
    specs = session.get_outputs()
    arena = np.empty(_values(session), np.float32)
    arrays, start = {}, -arena.ctypes.data // 4 % _ALIGNED
    for spec in specs:
        array = arrays[spec.name] = arena[start : start + math.prod(spec.shape)]
        binding.bind_output(spec.name, "cpu", 0, np.float32, spec.shape, array.ctypes.data)
        start += _padded(array.size)
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


def _warnings(total: _Worker, count: int, skipped: Sequence[str]) -> Iterator[str]:
    if skipped:
        shown = ", ".join(itertools.islice(skipped, 5)) + (", ..." if len(skipped) > 5 else "")
        yield f"{len(skipped)} of {count} calibration pictures could not be read: {shown}"
    dead = [name for name, histogram in total.histograms.items() if not histogram.limit]
    if dead:
        yield f"{len(dead)} tensors are zero on every picture, {dead[0]!r} among them"
    grown = [name for name, found in total.histograms.items() if found.limit > (1 + GROWTH) * total.early[name]]
    if grown:
        worst = max(grown, key=lambda name: total.histograms[name].limit / max(total.early[name], 1e-38))
        yield (
            f"{len(grown)} of {len(total.histograms)} ranges grew by more than {GROWTH:.0%} in the last quarter of the "
            f"pictures (worst: {worst!r} from {total.early[worst]:.3g} to {total.histograms[worst].limit:.3g}); "
            "more pictures would make them surer"
        )
