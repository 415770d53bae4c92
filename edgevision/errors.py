"""Every error this package raises on purpose.

    EdgeVisionError
    ├── UsageError              an argument, flag or URI is wrong
    ├── DependencyError         an optional package is missing or does not work
    ├── ModelError              a model file cannot be used
    │   ├── UnknownFamilyError  its head is not one we know, or could be several
    │   └── BuildError          a backend refused or failed to build it
    ├── BundleError             a bundle is damaged, tampered with, or from a newer version
    ├── CalibrationError        ranges cannot be had: no pictures, NaN activations
    ├── DatasetError            ground truth cannot be read or does not fit the model
    ├── SourceError             a camera or file cannot be opened or read
    ├── SinkError               an output cannot be opened or written
    ├── SessionError            inference failed
    │   └── PlanError           a plan does not fit this machine
    └── DeviceError             a GPU, its driver or the compiler for it is missing or fails
        └── CaptureError        the driver does not capture this work as a CUDA graph

Messages say what was given, what was expected and what to do next. The command line prints them
without a traceback and exits with 2.
"""

from __future__ import annotations

from collections.abc import Mapping


class EdgeVisionError(Exception):
    """Base of all errors of this package."""


class UsageError(EdgeVisionError):
    """An argument, flag or URI is wrong."""


class DependencyError(EdgeVisionError):
    """An optional package is missing or does not work on this machine."""


class ModelError(EdgeVisionError):
    """A model file cannot be read, checked or converted."""


class UnknownFamilyError(ModelError):
    """No head family recognises the graph, or more than one does.

    Attributes:
        considered: family -> what it saw, in words.
        outcome: the message without what each family saw.
    """

    def __init__(self, message: str, considered: Mapping[str, str] | None = None, outcome: str = "") -> None:
        super().__init__(message)
        self.considered = dict(considered or {})
        self.outcome = outcome or message


class BuildError(ModelError):
    """A backend refused the graph or failed to build an engine from it.

    Attributes:
        reasons: each node that was refused, with operator and reason; the message names the first few.
    """

    def __init__(self, message: str, reasons: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.reasons = reasons


class BundleError(EdgeVisionError):
    """A bundle is damaged, tampered with, or written by a newer version."""


class CalibrationError(EdgeVisionError):
    """Activation ranges cannot be established."""


class DatasetError(EdgeVisionError):
    """Ground truth cannot be read, or does not fit the model's classes."""


class SourceError(EdgeVisionError):
    """A camera, file or URL cannot be opened or read."""


class SinkError(EdgeVisionError):
    """An output cannot be opened or written."""


class SessionError(EdgeVisionError):
    """Inference failed, or was given tensors that do not fit."""


class PlanError(SessionError):
    """A plan is damaged, or was built for another GPU or TensorRT."""


class DeviceError(EdgeVisionError):
    """A GPU, its driver or the compiler for it is missing, refuses or fails."""


class CaptureError(DeviceError):
    """The driver does not capture this work as a CUDA graph; it runs all the same without one."""
