"""Behaviour of the small classes: sizes, memory, logger, interfaces that the program implements."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.standins.tensorrt.binding import Bound


class Dims(Bound):
    """A shape; -1 is an open side."""

    __slots__ = ()

    def _construct(self, *arguments: Any) -> None:
        sides = arguments[0] if arguments and isinstance(arguments[0], list) else list(arguments)
        self._s = SimpleNamespace(sides=[int(side) for side in sides])

    def _len(self) -> int:
        return len(self._s.sides)

    def _getitem(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self._s.sides[index])
        if not -len(self._s.sides) <= index < len(self._s.sides):
            raise IndexError("Out of bounds")
        return self._s.sides[index]

    def _setitem(self, index: Any, value: Any) -> None:
        self._s.sides[index] = value

    def _get_MAX_DIMS(self) -> int:  # noqa: N802
        return 8

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (Dims, tuple, list)) and list(other) == self._s.sides  # type: ignore[arg-type]

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return str(tuple(self._s.sides))

    __repr__ = __str__


class IHostMemory(Bound):
    """Bytes made by TensorRT. Python before 3.12 cannot export them as a buffer: use `bytes(memory)`."""

    __slots__ = ()

    def __bytes__(self) -> bytes:
        return bytes(self._s.data)

    def __buffer__(self, flags: int) -> memoryview:
        return memoryview(self._s.data)

    def _get_nbytes(self) -> int:
        return len(self._s.data)

    def _get_dtype(self) -> Any:
        return self._trt.member("DataType", "INT8")


class Weights(Bound):
    """Values for a constant layer."""

    __slots__ = ()

    def _construct(self, *arguments: Any) -> None:
        array = arguments[0] if isinstance(arguments[0], np.ndarray) else np.zeros(0, np.float32)
        self._s = SimpleNamespace(array=array, size=array.size, nbytes=array.nbytes)

    def _numpy(self) -> Any:
        return self._s.array

    def _len(self) -> int:
        return int(self._s.size)


class ILogger(Bound):
    """What the program implements; the base's own `log` does nothing."""

    __slots__ = ()

    def _log(self, severity: Any, message: str) -> None:
        pass


class IInt8EntropyCalibrator2(Bound):
    """What the program implements, by entropy of histograms."""

    __slots__ = ()

    def _get_algorithm(self) -> Any:
        return self._trt.member("CalibrationAlgoType", "ENTROPY_CALIBRATION_2")


class IInt8MinMaxCalibrator(Bound):
    """What the program implements, by the largest values."""

    __slots__ = ()

    def _get_algorithm(self) -> Any:
        return self._trt.member("CalibrationAlgoType", "MINMAX_CALIBRATION")


class Logger(Bound):
    """The bindings' own logger: prints to standard error."""

    __slots__ = ()

    def _construct(self, *arguments: Any) -> None:
        self._s = SimpleNamespace(min_severity=arguments[0])

    def _log(self, severity: Any, message: str) -> None:
        if severity <= self._s.min_severity:
            stamp = time.strftime("%m/%d/%Y-%H:%M:%S")
            print(f"[{stamp}] [TRT] [{severity.name[0]}] {message}", file=sys.stderr)


class IOptimizationProfile(Bound):
    """Shape ranges of inputs. Nothing is checked here: mistakes show when the network is built."""

    __slots__ = ()

    def _set_shape(self, name: str, low: Any, best: Any, high: Any) -> None:
        self._s.shapes[name] = tuple(tuple(sides) for sides in (low, best, high))

    def _get_shape(self, name: str) -> list[Any]:
        return [self._trt.make_dims(sides) for sides in self._s.shapes.get(name, ())]

    def _bool(self) -> bool:
        return True


class ITimingCache(Bound):
    """Measured kernels by name."""

    __slots__ = ()

    def _serialize(self) -> Any:
        trt = self._trt
        head = f"vtrtcache {trt.version} {trt.sm}\n"
        return trt.make("IHostMemory", data=(head + "\n".join(sorted(self._s.entries))).encode())

    def _combine(self, other: Any, ignore_mismatch: bool) -> bool:
        self._s.entries |= other._s.entries
        return True

    def _reset(self) -> bool:
        self._s.entries.clear()
        return True
