"""edgevision: take a trained vision model to an edge board and keep cameras running through it.

    import edgevision

    model = edgevision.load("model.edge")
    with edgevision.open_source("street.mp4") as source:
        for frame in source:
            detections = model(frame)

Importing this package loads numpy and nothing heavier; the rest loads at first use.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if sys.version_info < (3, 10):  # noqa: UP036 - pip refuses; a checkout or a copied folder comes this far
    raise ImportError(
        f"edgevision needs Python 3.10 or newer, this is {sys.version_info[0]}.{sys.version_info[1]}. "
        "JetPack 5 and older (Python 3.8) are out of scope; JetPack 6 brings Python 3.10"
    )

from edgevision.bundle import Bundle
from edgevision.errors import (
    BuildError,
    BundleError,
    CalibrationError,
    CaptureError,
    DatasetError,
    DependencyError,
    DeviceError,
    EdgeVisionError,
    ModelError,
    PlanError,
    SessionError,
    SinkError,
    SourceError,
    UnknownFamilyError,
    UsageError,
)
from edgevision.frame import Frame
from edgevision.manifest import Manifest
from edgevision.results import Classification, Detections, SegmentationMap

if TYPE_CHECKING:
    from edgevision.cascade import Cascade, load_classifier
    from edgevision.cropping import crop, smart_crop
    from edgevision.model import Model, load
    from edgevision.pipeline import Pipeline, run_pipeline
    from edgevision.proposals import SelectiveSearch
    from edgevision.sinks import open_sink
    from edgevision.sources import open_source
    from edgevision.sources.iterator import PictureIterator

__version__ = "0.1.0"

# What does work is imported at first use; the types above need numpy only.
_LAZY = {
    "Cascade": "cascade",
    "Model": "model",
    "PictureIterator": "sources.iterator",
    "Pipeline": "pipeline",
    "SelectiveSearch": "proposals",
    "crop": "cropping",
    "load": "model",
    "load_classifier": "cascade",
    "open_sink": "sinks",
    "open_source": "sources",
    "run_pipeline": "pipeline",
    "smart_crop": "cropping",
}

__all__ = [
    "BuildError",
    "Bundle",
    "BundleError",
    "CalibrationError",
    "CaptureError",
    "Cascade",
    "Classification",
    "DatasetError",
    "DependencyError",
    "Detections",
    "DeviceError",
    "EdgeVisionError",
    "Frame",
    "Manifest",
    "Model",
    "ModelError",
    "PictureIterator",
    "Pipeline",
    "PlanError",
    "SegmentationMap",
    "SelectiveSearch",
    "SessionError",
    "SinkError",
    "SourceError",
    "UnknownFamilyError",
    "UsageError",
    "__version__",
    "crop",
    "load",
    "load_classifier",
    "open_sink",
    "open_source",
    "run_pipeline",
    "smart_crop",
]

# In a checkout the export and calibration stages live in top-level folders; an installed package has them inside.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "export").is_dir():
    __path__.append(str(_checkout))


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'edgevision' has no attribute {name!r}")
    return getattr(importlib.import_module(f"edgevision.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
