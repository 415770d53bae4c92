"""Optional packages: imported at first use, and named with their remedy when absent."""

from __future__ import annotations

import importlib
from types import ModuleType

from edgevision.errors import DependencyError

# import name -> (distribution, the extra of ours that brings it)
_PACKAGES = {
    "av": ("av", "cpu"),
    "cv2": ("opencv-python-headless", "cpu"),
    "onnx": ("onnx", "export"),
    "onnxruntime": ("onnxruntime", "cpu"),
    "pycocotools": ("pycocotools", "eval"),
    "paho": ("paho-mqtt", "serve"),
    "prometheus_client": ("prometheus-client", "serve"),
    "tomli": ("tomli", "export"),
    "tensorrt_rtx_bindings": ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx"),
}


def require(name: str, purpose: str) -> ModuleType:
    """Import and return module `name`.

    Raises:
        DependencyError: it is not installed or does not load; says what needed it and what to install.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        distribution, extra = _PACKAGES[name.partition(".")[0]]
        raise DependencyError(
            f"{purpose} needs the package {distribution!r}, which does not import here ({error}). "
            f'Install it with: pip install "edgevision[{extra}]"'
        ) from error
