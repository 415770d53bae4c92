"""One way to NVIDIA's TensorRT, whatever its version: 8.6, 10.x, 11.x and TensorRT for RTX.

Enumerations change their values and members come and go between versions, so everything is looked up by name where
it is used, and what a version can do is asked of the module rather than derived from its number.
"""

from __future__ import annotations

import functools
import importlib
import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

from edgevision.backends.tensorrt_types import IErrorRecorder, ILogger, Severity, TensorRT
from edgevision.errors import DependencyError
from edgevision.optional import require

FLAVOURS = ("tensorrt", "tensorrt-rtx")
_TITLES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
_TAIL, _KEPT, _LINE = 3, 200, 300


@dataclass(frozen=True)
class Api:
    """An imported TensorRT and what it can do.

    Attributes:
        module: the Python package.
        flavour: one of FLAVOURS.
        version: the package's own version string.
    """

    module: TensorRT
    flavour: str
    version: str

    @property
    def title(self) -> str:
        """Its name and version for messages, like `TensorRT 10.3.0`."""
        return f"{_TITLES[self.flavour]} {self.version}"

    @property
    def strongly_typed(self) -> bool:
        """Whether networks can take their precisions from the graph (all versions but 8.6)."""
        return hasattr(self.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")

    @property
    def weakly_typed(self) -> bool:
        """Whether the builder can choose precisions, by flags and calibrators (gone in 11)."""
        return hasattr(self.module.BuilderFlag, "INT8")

    def network_flags(self, *, typed: bool) -> int:
        """The bits that `create_network` wants for a strongly or weakly typed network."""
        flags = self.module.NetworkDefinitionCreationFlag
        # TensorRT 8 has a legacy implicit-batch mode that must be switched off; later versions only have explicit.
        wanted = ("STRONGLY_TYPED",) if typed else () if self.strongly_typed else ("EXPLICIT_BATCH",)
        return sum(1 << int(getattr(flags, name)) for name in wanted)


def load_api(flavour: str) -> Api:
    """Import TensorRT.

    Args:
        flavour: one of FLAVOURS.

    Raises:
        DependencyError: it is not installed or does not load; says what to do.
    """
    if flavour == "tensorrt-rtx":
        module = require("tensorrt_rtx_bindings", "building with TensorRT-RTX")
    else:
        try:
            module = importlib.import_module("tensorrt")
        except (ImportError, OSError) as error:
            raise DependencyError(
                f"no TensorRT found on this machine ({error}). On a Jetson, TensorRT comes with JetPack: "
                "sudo apt-get install python3-libnvinfer, and a virtual environment must be made with "
                "--system-site-packages; elsewhere: pip install tensorrt"
            ) from error
    return Api(module, flavour, str(module.__version__))


class Records:
    """What TensorRT said, kept for the message of an exception. Written from TensorRT's threads.

    Attributes:
        errors: the last error lines, oldest first.
        layers: the builder's list of layers, where it logs one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.errors: deque[str] = deque(maxlen=_KEPT)
        self.layers = ""

    def add(self, message: str) -> None:
        """Keep an error line; one that is said twice in a row is kept once."""
        line = " ".join(message.split())
        with self._lock:
            if line and (not self.errors or self.errors[-1] != line):
                self.errors.append(line)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self.errors.clear()
            self.layers = ""

    @property
    def tail(self) -> tuple[str, ...]:
        """The last few error lines, shortened."""
        with self._lock:
            return tuple(line[:_LINE] for line in list(self.errors)[-_TAIL:])

    @property
    def said(self) -> str:
        """The tail as the end of a sentence: ` [log: a | b]`, or nothing."""
        return f" [log: {' | '.join(self.tail)}]" if self.tail else ""


def open_logger(api: Api) -> ILogger:
    """A TensorRT logger; its `records` (Records) keep error lines and the list of layers, `tail` the last lines."""
    return _logger_class(api.module)()


def open_recorder(api: Api) -> IErrorRecorder:
    """A TensorRT error recorder for `error_recorder` of a builder, runtime, engine or context; has `records`, `tail`.

    It sees errors that a shared logger cannot attribute: the ones of this object only.
    """
    return _recorder_class(api.module)()


@functools.cache
def _logger_class(trt: TensorRT) -> Any:
    class Logger(trt.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.records = Records()

        @property
        def tail(self) -> tuple[str, ...]:
            return self.records.tail

        def log(self, severity: Severity, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.records.add(message)
            elif message.startswith("Layers:"):
                self.records.layers = message

    return Logger


@functools.cache
def _recorder_class(trt: TensorRT) -> Any:
    class Recorder(trt.IErrorRecorder):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.IErrorRecorder.__init__(self)
            self.records = Records()
            self._found: list[tuple[Any, str]] = []

        @property
        def tail(self) -> tuple[str, ...]:
            return self.records.tail

        def report_error(self, code: Any, message: str) -> bool:
            self.records.add(message)
            if len(self._found) < _KEPT:
                self._found.append((code, message))
            return True

        def num_errors(self) -> int:
            return len(self._found)

        def get_error_code(self, index: int) -> Any:
            return self._found[index][0]

        def get_error_desc(self, index: int) -> str:
            return self._found[index][1]

        def has_overflowed(self) -> bool:
            return len(self._found) >= _KEPT

        def clear(self) -> None:
            self._found.clear()
            self.records.clear()

    return Recorder
