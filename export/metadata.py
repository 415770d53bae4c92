"""What an exporter wrote into the file about its model: our own JSON entry, and Ultralytics' Python literals.

Ultralytics writes one metadata entry per fact, values being `str(value)` of Python objects (`names` is a dict such as
"{0: 'person', 1: 'bicycle'}", `imgsz` is "[640, 640]" as height, width).
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx

from edgevision.errors import ModelError

KEY = "edgevision"
_LIMIT = 1 << 20
_ULTRALYTICS_KEYS = frozenset({"names", "stride", "task", "imgsz"})


@dataclass(frozen=True)
class Metadata:
    """A model's metadata, parsed.

    Attributes:
        edgevision: the JSON object under the key `edgevision`; empty without.
        ultralytics: Ultralytics' entries as Python values; empty where the file is not theirs.
    """

    edgevision: Mapping[str, Any] = field(default_factory=dict)
    ultralytics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> str | None:
        """The family that the file itself names."""
        value = self.edgevision.get("family")
        return value if isinstance(value, str) else None

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Class names, index = class id."""
        names = self.edgevision.get("labels", self.ultralytics.get("names"))
        if isinstance(names, Mapping):
            if sorted(names) != list(range(len(names))):
                return None
            names = [names[index] for index in range(len(names))]
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            return tuple(names)
        return None

    @property
    def input_wh(self) -> tuple[int, int] | None:
        """The input size that the exporter noted."""
        size = self.ultralytics.get("imgsz")
        if isinstance(size, list) and len(size) == 2 and all(type(s) is int and 0 < s <= 16384 for s in size):
            return size[1], size[0]
        return None

    def section(self, name: str) -> Mapping[str, Any]:
        """One sub-object of our own entry, empty if absent.

        Raises:
            ModelError: it is there but not an object.
        """
        value = self.edgevision.get(name, {})
        if not isinstance(value, dict):
            raise ModelError(f"metadata {KEY!r}: {name!r} is an object, got {type(value).__name__}")
        return value


def read_metadata(model: onnx.ModelProto) -> Metadata:
    """Parse the metadata of `model`.

    Raises:
        ModelError: our own entry is there but is not a JSON object.
    """
    entries = {entry.key: entry.value for entry in model.metadata_props if len(entry.value) <= _LIMIT}
    own: Any = {}
    if KEY in entries:
        try:
            own = json.loads(entries[KEY])
        except (ValueError, RecursionError) as error:
            raise ModelError(f"metadata {KEY!r} is not JSON ({error}); correct or remove it") from error
        if not isinstance(own, dict):
            raise ModelError(f"metadata {KEY!r} is a JSON object, got {type(own).__name__}; correct or remove it")
    theirs = {}
    if entries.keys() >= _ULTRALYTICS_KEYS:
        theirs = {key: _literal(value) for key, value in entries.items() if key != KEY}
    return Metadata(own, theirs)


def _literal(text: str) -> Any:
    """A Python literal's value; plain text stays text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
