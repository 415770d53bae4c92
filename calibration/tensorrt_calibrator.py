"""TensorRT's own INT8 calibration (8.6 to 10.x), fed with pictures by the runtime's own preprocessing.

TensorRT calls back while it builds: it asks for batches in device memory until there are no more, and for a cache to
read and to write. Later versions have no calibrators: the graph of a bundle carries its ranges itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevision.backends.tensorrt_api import Api
from edgevision.backends.tensorrt_types import IInt8Calibrator
from edgevision.calibration.fields import MAX_BYTES
from edgevision.calibration.images import CalibrationImages
from edgevision.calibration.tensorrt_cache import read_cache
from edgevision.errors import CalibrationError, EdgeVisionError, UsageError
from edgevision.files import atomic_path
from edgevision.kernels.cpu_preprocess import Preprocessor
from edgevision.manifest import Preprocess
from edgevision.progress import Progress

if TYPE_CHECKING:
    from edgevision.cuda import Device


class TensorRTCalibration:
    """What a calibrator reads; `open` is a CalibratorFactory for the builder.

    Attributes:
        sha256: hash of everything that the ranges depend on.
    """

    def __init__(
        self,
        kind: str,
        images: CalibrationImages | None,
        preprocess: Preprocess,
        device: Device,
        *,
        batch: int = 1,
        cache: Path | None = None,
        quiet: bool = False,
    ) -> None:
        """
        Args:
            kind: `entropy` or `minmax`.
            images: pictures like those the camera will see; None: the cache must do.
            preprocess: of the graph's input.
            device: where batches are put.
            batch: pictures per batch: the preferred batch of the build.
            cache: TensorRT's calibration cache: reused where it fits, written otherwise; None: none is kept.
            quiet: show no progress.

        Raises:
            CalibrationError: the cache is damaged, or missing without pictures to measure on.
        """
        self._kind, self._images, self._preprocess, self._device = kind, images, preprocess, device
        self._batch, self._cache, self._quiet = batch, cache, quiet
        self._cached = cache.read_bytes()[: MAX_BYTES + 1] if cache is not None and cache.is_file() else b""
        if self._cached:
            read_cache(self._cached)
        elif images is None:
            raise CalibrationError(f"there is no calibration cache {cache}, and no pictures to write one from")
        parts = {
            "kind": kind,
            "images": "" if images is None else images.sha256,
            "preprocess": asdict(preprocess),
            "batch": batch,
            "cache": hashlib.sha256(self._cached).hexdigest(),
        }
        self.sha256 = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @contextlib.contextmanager
    def open(self, api: Api) -> Iterator[Any]:
        """Lend TensorRT's calibrator object for one build.

        Raises:
            UsageError: this TensorRT has no calibrators.
            CalibrationError: at the end, if no picture was readable.
        """
        if self._kind == "entropy":
            base = getattr(api.module, "IInt8EntropyCalibrator2", None)
        else:
            base = getattr(api.module, "IInt8MinMaxCalibrator", None)
        if base is None:
            raise UsageError(f"{api.title} has no calibrators any more: leave out --calibrator")
        with contextlib.ExitStack() as stack:
            batches = _Batches(self._images, self._preprocess, self._device, self._batch, self._quiet, stack)
            calibrator = _calibrator(base, batches, self._cached, self._cache)
            yield calibrator
            if batches.failure is not None:
                raise batches.failure


class _Batches:
    """Pictures, preprocessed and in device memory, a batch at a time."""

    def __init__(
        self,
        images: CalibrationImages | None,
        preprocess: Preprocess,
        device: Device,
        batch: int,
        quiet: bool,
        stack: contextlib.ExitStack,
    ) -> None:
        self.size = batch
        self.failure: EdgeVisionError | None = None
        self._input_name, self._device = preprocess.input_name, device
        self._preprocessor = Preprocessor(preprocess)
        self._stream, self._progress = device.stream(), Progress("calibrating", len(images or ()), quiet=quiet)
        self._host = device.pinned((batch, *self._preprocessor.shape[1:]), self._preprocessor.dtype)
        self._memory = device.allocate(self._host.array.nbytes)
        for handle in (self._stream, self._host, self._memory):
            stack.callback(handle.close)
        stack.enter_context(self._progress)
        self._pictures = iter(()) if images is None else (image for _, image in images)

    def next(self, names: list[str]) -> list[int]:
        """The address of the next batch; nothing after the last. A last one that is not full is filled up with
        repetitions."""
        if names != [self._input_name]:
            raise UsageError(f"the network's inputs are {names}, expected {self._input_name!r} alone; export it again")
        found = 0
        for image in self._pictures:
            self._preprocessor(image, self._host.array[found])
            self._progress.update()
            found += 1
            if found == self.size:
                break
        if not found:
            return []
        for index in range(found, self.size):
            self._host.array[index] = self._host.array[index % found]
        self._device.upload(self._memory.address, self._host.array, self._stream)
        self._stream.synchronize()
        return [self._memory.address]


def _calibrator(base: type[IInt8Calibrator], batches: _Batches, cached: bytes, cache: Path | None) -> IInt8Calibrator:
    class Calibrator(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)

        def get_batch_size(self) -> int:
            return batches.size

        def get_batch(self, names: list[str]) -> list[int]:
            # What is raised here cannot pass through TensorRT: it is kept, and raised when the build is over.
            try:
                return batches.next(names)
            except EdgeVisionError as error:
                batches.failure = error
                return []

        def read_calibration_cache(self) -> bytes | None:
            return cached or None

        def write_calibration_cache(self, content: Any) -> None:
            if cache is not None:
                with contextlib.suppress(OSError), atomic_path(cache) as path:
                    path.write_bytes(bytes(content))

    return Calibrator()
