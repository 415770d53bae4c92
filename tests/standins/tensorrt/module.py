"""Puts a version of the stand-in together: module, classes, enums, functions."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from tests.standins.tensorrt import builder, config, context, driver, network, parser, runtime, support
from tests.standins.tensorrt.binding import Bound, BoundEnum, make_class, make_enum, make_functions
from tests.standins.tensorrt.facts import load
from tests.standins.tensorrt.world import World

# Enums that pybind made with arithmetic(), which alone can be ordered.
_ARITHMETIC = {"Severity"}
_BEHAVIOURS: dict[str, type] = {
    name: behaviour
    for module in (builder, config, context, network, parser, runtime, support)
    for name, behaviour in vars(module).items()
    if isinstance(behaviour, type) and issubclass(behaviour, Bound) and behaviour is not Bound
}
_NUMPY = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
    "UINT8": np.uint8,
}


_SIZES = {"FLOAT": 4, "HALF": 2, "BF16": 2, "INT8": 1, "INT32": 4, "INT64": 8, "BOOL": 1, "UINT8": 1, "FP8": 1}


def _item_size(kind: BoundEnum) -> float | None:
    return 0.5 if kind.name in ("INT4", "FP4") else _SIZES.get(kind.name)


class Standin:
    """One version of TensorRT.

    Attributes:
        version: as in api.txt.
        module: what `import tensorrt` gives while it is installed.
        enums, classes: by name.
        world: the GPU and the failures; see World.
    """

    def __init__(self, version: str, world: World | None = None) -> None:
        self.version, self.world = version, world or World()
        self.rtx = version.startswith("rtx-")
        # TensorRT-RTX 1.7 is of the line of TensorRT 11.
        self.number = (11, 0, 0) if self.rtx else tuple(int(part) for part in version.split("."))
        self.package = "tensorrt_rtx_bindings" if self.rtx else "tensorrt"
        self.qualifier = "tensorrt_rtx_bindings.tensorrt_rtx" if self.rtx else "tensorrt_bindings.tensorrt"
        self.api = load(version)
        self.enums: dict[str, type[BoundEnum]] = {
            name: make_enum(name, members, arithmetic=name in _ARITHMETIC) for name, members in self.api.enums.items()
        }
        self.enums["DataType"].itemsize = property(_item_size)  # type: ignore[attr-defined]
        self.classes: dict[str, type[Bound]] = {}
        for name in self.api.classes:
            self._make(name)
        self.module = self._module()

    def _make(self, name: str) -> type[Bound]:
        if name not in self.classes:
            facts = self.api.classes[name]
            base = self._make(facts.base) if facts.base in self.api.classes else Bound
            self.classes[name] = make_class(self, facts, base, _BEHAVIOURS.get(name, Bound))
        return self.classes[name]

    def _module(self) -> ModuleType:
        module = ModuleType(self.package)
        module.__dict__["__version__"] = self.version.removeprefix("rtx-")
        for name, enum in self.enums.items():
            if name != "Severity":
                setattr(module, name, enum)
        for name, shell in self.classes.items():
            setattr(module, name, shell)
        for name, member in self.api.constants.items():
            owner, _, entry = member.strip("<>").partition(":")[0].partition(".")
            setattr(module, name, getattr(self.enums[owner], entry))
        for holder in (self.classes["ILogger"], self.classes["Logger"]):
            holder.Severity = self.enums["Severity"]  # type: ignore[attr-defined]
            for name, member in self.enums["Severity"].__members__.items():
                setattr(holder, name, member)
        work = {
            "volume": lambda sides: int(np.prod([int(side) for side in sides], dtype=np.int64)),
            "nptype": self._nptype,
            "init_libnvinfer_plugins": lambda logger, namespace: True,
            "get_nv_onnx_parser_version": lambda: 0,
        }
        for name, function in make_functions(self, self.api, work).items():
            setattr(module, name, function)
        return module

    def _nptype(self, kind: BoundEnum) -> type:
        if kind.name not in _NUMPY or not hasattr(self.enums["DataType"], kind.name):
            raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
        return _NUMPY[kind.name]

    def make(self, name: str, /, **state: Any) -> Any:
        """An object that TensorRT creates itself, with this state."""
        shell = self.classes[name]
        made = shell.__new__(shell)
        made._s = SimpleNamespace(**state)
        return made

    def make_dims(self, sides: Sequence[int]) -> Any:
        """A Dims."""
        return self.make("Dims", sides=[int(side) for side in sides])

    def member(self, enum: str, name: str) -> Any:
        """An enum member that this version has."""
        return getattr(self.enums[enum], name)

    @property
    def sm(self) -> int:
        """Compute capability of the GPU at hand."""
        return self.world.sm if self.world.sm is not None else driver.compute_capability() or 87

    def log(self, logger: Any, severity: str, text: str) -> None:
        """Log; what the logger raises is printed and forgotten, as in the bindings."""
        try:
            logger.log(self.member("Severity", severity), text)
        except Exception:  # noqa: BLE001
            traceback.print_exc()

    def fail(self, logger: Any, recorder: Any, code: str, text: str) -> None:
        """Report an error to the recorder, where there is one, and to the logger."""
        self.log(logger, "INTERNAL_ERROR" if code == "INTERNAL_ERROR" else "ERROR", text)
        if recorder is not None:
            recorder.report_error(self.member("ErrorCodeTRT", code), text)


@contextmanager
def install(version: str, world: World | None = None) -> Iterator[Standin]:
    """Make `import tensorrt` (or `tensorrt_rtx_bindings`) give the stand-in of a version, until the block ends.

    Args:
        version: one of facts.versions(), such as "10.3.0" or "rtx-1.7.1.116".
        world: the GPU and the failures; the default is an Orin that fails at nothing.
    """
    standin = Standin(version, world)
    before = sys.modules.get(standin.package)
    sys.modules[standin.package] = standin.module
    try:
        yield standin
    finally:
        if before is None:
            del sys.modules[standin.package]
        else:
            sys.modules[standin.package] = before
