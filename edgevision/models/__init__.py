"""The models that ship with the package, trained by examples/training on the synthetic aerial camera."""

from __future__ import annotations

from pathlib import Path

from edgevision.errors import UsageError

NAMES = ("aerial_detector", "aerial_segmenter")


def path(name: str) -> Path:
    """The ONNX file of a shipped model.

    Raises:
        UsageError: there is no model of that name.
    """
    if name not in NAMES:
        raise UsageError(f"no model {name!r} ships with the package; there are {', '.join(NAMES)}")
    return Path(__file__).with_name(f"{name}.onnx")
