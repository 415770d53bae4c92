"""The language of `--head-spec`: a detector's outputs in a few lines of TOML (docs/export.md has it as a table).

TOML because people write it by hand, with comments; it reads like the tables of docs/export.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgevision.errors import BundleError, UsageError
from edgevision.export.priors import FORMATS
from edgevision.export.toml_files import read_toml
from edgevision.geometry import RESIZE_MODES
from edgevision.manifest import Nms

CORNERS_AND_CENTRES = ("xyxy", "yxyx", "cxcywh", "cycxhw")
_UNITS = {**dict.fromkeys(CORNERS_AND_CENTRES, ("pixels", "fractions")), "ltrb": ("pixels", "strides")}
Check = Callable[[Any], Any]


@dataclass(frozen=True)
class Part:
    """Where boxes, scores or objectness stand.

    Attributes:
        outputs: outputs that hold it, one after the other along the locations.
        layout: `rows` [1,N,C], `columns` [1,C,N] or `maps` [1,C,h,w].
        columns: first and behind the last of its columns; None: all.
    """

    outputs: tuple[str, ...]
    layout: str = "rows"
    columns: tuple[int, int] | None = None

    def overlaps(self, other: Part) -> bool:
        """Whether both read some of the same numbers."""
        (low, high), (first, last) = (part.columns or (0, math.inf) for part in (self, other))
        return bool(set(self.outputs) & set(other.outputs)) and low < last and first < high


@dataclass(frozen=True)
class HeadSpec:
    """A detector's head as its author describes it.

    Attributes:
        name: of the family, as the bundle will state it.
        about: one line.
        labels: class names without background; empty where not given.
        boxes, scores, objectness: where they stand; no objectness: None.
        box_format: one of CORNERS_AND_CENTRES, `ltrb`, `offsets`, `offsets-yx`.
        unit: `pixels`, `fractions` or `strides`; empty for offsets.
        activation, objectness_activation: what remains to be applied: `none`, `sigmoid` (or `softmax`, scores only).
        background: `none`, `first` or `last`: the column of the scores that is no class.
        strides, point: of the maps, and where in its cell a location stands (0: its corner, 0.5: its middle).
        priors, priors_format, variances: file of prior boxes, its columns, and the factors of offsets to them.
        preprocess: PreprocessDefaults' settings that are given.
        nms: suppression.
    """

    name: str
    about: str
    labels: tuple[str, ...]
    boxes: Part
    scores: Part
    objectness: Part | None
    box_format: str
    unit: str
    activation: str
    objectness_activation: str
    background: str
    strides: tuple[int, ...]
    point: float
    priors: Path | None
    priors_format: str
    variances: tuple[float, ...]
    preprocess: Mapping[str, Any]
    nms: Nms


def read_head_spec(path: Path | str) -> HeadSpec:
    """Read and check a specification.

    Raises:
        UsageError: a key is unknown, missing or of the wrong kind; the message names what is allowed.
    """
    try:
        return _spec(read_toml(path), Path(path).parent)
    except _WrongError as error:
        raise UsageError(f"{path}: {error}") from None


class _WrongError(Exception):
    """What is wrong with a specification."""


def _one_of(*allowed: str) -> Check:
    def check(value: Any) -> Any:
        if value not in allowed:
            raise _WrongError(f"one of {', '.join(allowed)}")
        return value

    return check


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _WrongError("a text")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
        raise _WrongError("a text, or a list of texts")
    return tuple(texts)


def _name(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", value):
        raise _WrongError("a letter, then letters, digits, _ or -")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _number(low: float, high: float) -> Check:
    def check(value: Any) -> float:
        if not _is_number(value) or not low <= value <= high:
            raise _WrongError(f"a number in {low:g}..{high:g}")
        return float(value)

    return check


def _three(value: Any) -> tuple[float, ...]:
    numbers = [value] * 3 if _is_number(value) else value
    if not isinstance(numbers, list) or len(numbers) != 3 or not all(map(_is_number, numbers)):
        raise _WrongError("one number or three, in 0..255 units")
    return tuple(map(float, numbers))


def _variances(value: Any) -> tuple[float, ...]:
    if not isinstance(value, list) or len(value) not in (2, 4) or not all(_is_number(v) and v > 0 for v in value):
        raise _WrongError("two positive numbers (centre, size) or four")
    return tuple(map(float, value if len(value) == 4 else (value[0], value[0], value[1], value[1])))


def _strides(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= 16 or not all(type(v) is int and v > 0 for v in value):
        raise _WrongError("whole numbers such as [8, 16, 32]")
    return tuple(value)


def _columns(value: Any) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2 or not all(type(v) is int for v in value):
        raise _WrongError("two whole numbers, the first column and the one behind the last")
    if not 0 <= value[0] < value[1]:
        raise _WrongError("two whole numbers, the first below the second")
    return value[0], value[1]


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _WrongError("true or false")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise _WrongError("a whole number")
    return value


_PART: dict[str, Check] = {"output": _texts, "layout": _one_of("rows", "columns", "maps"), "columns": _columns}
_TABLES: dict[str, dict[str, Check]] = {
    "boxes": {
        **_PART,
        "format": _one_of(*CORNERS_AND_CENTRES, "ltrb", "offsets", "offsets-yx"),
        "unit": _one_of("pixels", "fractions", "strides"),
    },
    "scores": {
        **_PART,
        "activation": _one_of("none", "sigmoid", "softmax"),
        "background": _one_of("none", "first", "last"),
    },
    "objectness": {**_PART, "activation": _one_of("none", "sigmoid")},
    "grid": {"strides": _strides, "point": _number(0, 1)},
    "priors": {"file": _text, "format": _one_of(*FORMATS), "variances": _variances},
    "preprocess": {
        "resize": _one_of(*RESIZE_MODES),
        "color": _one_of("rgb", "bgr"),
        "mean": _three,
        "std": _three,
        "pad_value": _number(0, 255),
    },
    "nms": {
        "iou_threshold": _number(0, 1),
        "confidence": _number(0, 1),
        "class_agnostic": _flag,
        "multi_label": _flag,
        "max_detections": _whole,
    },
}
_TOP: dict[str, Check] = {"name": _name, "about": _text, "labels": _texts}
_REQUIRED = {
    "boxes": ("output", "format"),
    "scores": ("output", "activation"),
    "objectness": ("output", "activation"),
    "grid": ("strides",),
    "priors": ("file",),
}


def _checked(values: Any, checks: Mapping[str, Check], where: str, required: tuple[str, ...] = ()) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise _WrongError(f"{where} is a table of {', '.join(checks)}, got {values!r}")
    unknown = sorted(values.keys() - checks.keys())
    if unknown:
        raise _WrongError(f"{where} has no key {unknown[0]!r}; it takes {', '.join(checks)}")
    missing = [key for key in required if key not in values]
    if missing:
        raise _WrongError(f"{where} lacks {' and '.join(missing)}")
    checked = {}
    for key, value in values.items():
        try:
            checked[key] = checks[key](value)
        except _WrongError as error:
            raise _WrongError(f"{where}: {key} is {error}, got {value!r}") from None
    return checked


def _spec(data: dict[str, Any], folder: Path) -> HeadSpec:
    unknown = sorted(data.keys() - _TOP.keys() - _TABLES.keys())
    if unknown:
        raise _WrongError(f"there is no key {unknown[0]!r}; allowed are {', '.join((*_TOP, *_TABLES))}")
    top = _checked({key: data[key] for key in data if key in _TOP}, _TOP, "the file", ("name",))
    missing = [table for table in ("boxes", "scores") if table not in data]
    if missing:
        raise _WrongError(f"the table [{missing[0]}] is missing")
    tables = {
        name: _checked(data[name], checks, f"[{name}]", _REQUIRED.get(name, ())) if name in data else {}
        for name, checks in _TABLES.items()
    }
    boxes, scores, objectness, grid, priors = (
        tables[name] for name in ("boxes", "scores", "objectness", "grid", "priors")
    )
    unit = boxes.get("unit", "")
    _check_coding(boxes["format"], unit, bool(grid), bool(priors))
    parts = {name: _part(tables[name]) for name in ("boxes", "scores", "objectness") if tables[name]}
    pairs = [("boxes", "scores"), ("boxes", "objectness"), ("scores", "objectness")]
    for one, other in pairs:
        if other in parts and parts[one].overlaps(parts[other]):
            raise _WrongError(f"[{one}] and [{other}] read the same columns; say with columns = [first, end] which")
    try:
        nms = Nms(**tables["nms"])
    except BundleError as error:
        raise _WrongError(str(error)) from None
    return HeadSpec(
        name=top["name"],
        about=top.get("about", f"described by a head specification ({top['name']})"),
        labels=top.get("labels", ()),
        boxes=parts["boxes"],
        scores=parts["scores"],
        objectness=parts.get("objectness"),
        box_format=boxes["format"],
        unit=unit,
        activation=scores["activation"],
        objectness_activation=objectness.get("activation", "none"),
        background=scores.get("background", "none"),
        strides=grid.get("strides", ()),
        point=grid.get("point", 0.5),
        priors=folder / priors["file"] if priors else None,
        priors_format=priors.get("format", ""),
        variances=priors.get("variances", (0.1, 0.1, 0.2, 0.2)),
        preprocess=tables["preprocess"],
        nms=nms,
    )


def _part(table: Mapping[str, Any]) -> Part:
    return Part(table["output"], table.get("layout", "rows"), table.get("columns"))


def _check_coding(form: str, unit: str, grid: bool, priors: bool) -> None:
    """Whether the tables that a box format needs are there, and no others."""
    units = _UNITS.get(form, ("",))
    if unit not in units:
        raise _WrongError(f"[boxes]: with format {form}, unit is {' or '.join(units) or 'left out'}, got {unit!r}")
    if form in CORNERS_AND_CENTRES and (grid or priors):
        raise _WrongError(f"boxes of format {form} need neither [grid] nor [priors]; leave them out")
    if form == "ltrb" and (priors or not grid):
        raise _WrongError("boxes of format ltrb need [grid] (the points that distances start at), and no [priors]")
    if form.startswith("offsets") and grid == priors:
        raise _WrongError(f"boxes of format {form} need either [grid] or [priors]")
