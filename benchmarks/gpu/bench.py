"""The GPU under test, and how its work is timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevision.cuda import Buffer, Device, Module, Stream, open_device
from edgevision.kernels.compile import load_kernels

Way = Callable[[int], None]


@dataclass(frozen=True)
class Sizes:
    """How much is done.

    Attributes:
        checked: sizes of the pictures that kernels are checked with.
        picture_wh, input_wh: of the pictures and of the network's input, pixels.
        batches: pictures at once.
        judged_batch: the least that the goal for preprocessing speaks of.
        cold_bytes: memory that a timed way goes through before it comes back to its beginning; more than caches hold.
        boxes, classes: of the detector.
        candidates: boxes above the threshold, one run each.
        weight_bytes: that the stand-in model reads.
        launches: of a kernel in one captured graph, at least.
        rounds: of all ways in turn.
        frames: through the whole graph.
    """

    checked: tuple[tuple[int, int], ...] = (
        *((1280, 720), (1, 1), (333, 517), (64, 48)),
        *((1919, 1079), (5, 3), (640, 2), (97, 1)),
    )
    picture_wh: tuple[int, int] = (1920, 1080)
    input_wh: tuple[int, int] = (640, 640)
    batches: tuple[int, ...] = (1, 8, 32)
    judged_batch: int = 8
    cold_bytes: int = 1 << 28
    boxes: int = 8400
    classes: int = 80
    candidates: tuple[int, ...] = (300, 1000, 8400)
    weight_bytes: int = 8 << 20
    launches: int = 20
    rounds: int = 15
    frames: int = 5000


# For trying the script itself, on a GPU that is none: nothing measured with it means anything.
QUICK = Sizes(
    checked=((96, 54), (1, 1), (33, 51), (5, 3), (64, 2)),
    picture_wh=(96, 54),
    input_wh=(32, 32),
    batches=(1, 2),
    judged_batch=2,
    cold_bytes=1 << 13,
    boxes=60,
    classes=4,
    candidates=(10, 60),
    weight_bytes=1 << 12,
    launches=1,
    rounds=1,
    frames=5,
)


class Bench:
    """One GPU, our kernels on it, and a stream; keeps what it allocates until it is closed."""

    def __init__(self, index: int, sizes: Sizes) -> None:
        self.sizes = sizes
        self.device: Device = open_device(index)
        self.module: Module = load_kernels(self.device)
        self.stream: Stream = self.device.stream()
        self._start, self._end = self.device.event(), self.device.event()
        self._kept: list[Any] = [self.module, self.stream, self._start, self._end]

    def keep(self, handle: Any) -> Any:
        """Close `handle` with the bench."""
        self._kept.append(handle)
        return handle

    def allocate(self, nbytes: int) -> Buffer:
        buffer: Buffer = self.keep(self.device.allocate(nbytes))
        return buffer

    def put(self, array: NDArray[Any]) -> Buffer:
        """A buffer that holds exactly `array`."""
        buffer = self.allocate(array.nbytes)
        self.device.upload(buffer.address, np.ascontiguousarray(array), self.stream)
        self.stream.synchronize()
        return buffer

    def get(self, buffer: Buffer, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        array = np.empty(shape, dtype)
        self.device.download(array, buffer.address, self.stream)
        self.stream.synchronize()
        return array

    def release(self) -> None:
        """Close what was made for one measurement."""
        while len(self._kept) > 4:
            self._kept.pop().close()

    def close(self) -> None:
        self.stream.synchronize()
        while self._kept:
            self._kept.pop().close()

    def device_ms(self, ways: dict[str, tuple[Way, int]]) -> dict[str, float]:
        """Median milliseconds on the GPU of each way, all in turn, without the host's part.

        Args:
            ways: what puts the work of turn i on the stream, and how many turns there are before memory repeats.
        """
        graphs = {}
        for name, (way, turns) in ways.items():
            count = max(turns, self.sizes.launches)

            def work(way: Way = way, count: int = count) -> None:
                for turn in range(count):
                    way(turn)

            work()  # whatever is done at first use is done now
            self.stream.synchronize()
            graphs[name] = (self.device.capture(self.stream, work), count)
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(self.sizes.rounds):
            for name, (graph, count) in graphs.items():
                graph.launch(self.stream)  # so that clocks and caches are as in the middle of a run
                self._start.record(self.stream)
                graph.launch(self.stream)
                self._end.record(self.stream)
                self._end.synchronize()
                times[name].append(self._start.elapsed_ms(self._end) / count)
        for graph, _ in graphs.values():
            graph.close()
        return {name: statistics.median(values) for name, values in times.items()}

    def wall_ms(self, ways: dict[str, Callable[[], Any]]) -> dict[str, float]:
        """Median milliseconds of each way as a caller sees it, all in turn; a way returns when its result is there."""
        for way in ways.values():
            for _ in range(3):
                way()
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(10 * self.sizes.rounds):
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                times[name].append((time.perf_counter() - start) * 1e3)
        return {name: statistics.median(values) for name, values in times.items()}
