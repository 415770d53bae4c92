"""An SSD's prior boxes: from an array, a file, or generated from a specification; always returned as cx, cy, w, h in
units of the input's width and height.

Which column is which can mostly be seen in the numbers. Priors are listed cell by cell along rows, so x changes
faster than y; corners lie right of and below each other, sizes are positive. Where the numbers do not say, the
format must be given.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevision.errors import ModelError, UsageError

FORMATS = ("cycxhw", "cxcywh", "yxyx", "xyxy")
_FILE_LIMIT_BYTES = 64 << 20
_COUNT_LIMIT = 1_000_000


def read_priors(path: Path | str, input_wh: tuple[int, int]) -> tuple[NDArray[np.float64], str]:
    """Priors from a file: .npy, .npz (one array), .csv (four columns), .json (rows of four numbers, or a
    specification for `generate_priors`).

    Returns:
        The values (N, 4) as they stand there, and their format (empty where the file does not state it; generated
        priors are `cxcywh`).

    Raises:
        UsageError: the file cannot be read as priors.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _FILE_LIMIT_BYTES:
            raise UsageError(f"priors {path}: larger than {_FILE_LIMIT_BYTES} bytes, which no prior file is")
        if path.suffix == ".json":
            data = json.loads(path.read_text("utf-8"))
            if isinstance(data, dict):
                return generate_priors(data, input_wh), "cxcywh"
            values = np.asarray(data, np.float64)
        elif path.suffix == ".csv":
            values = np.loadtxt(path, np.float64, delimiter=",", ndmin=2)
        elif path.suffix in (".npy", ".npz"):
            values = _read_numpy(path)
        else:
            raise UsageError(f"priors {path}: expected a .npy, .npz, .csv or .json file")
    except (OSError, ValueError, TypeError, EOFError, RecursionError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"priors {path}: cannot be read as a table of numbers ({error})") from error
    return _rows(values, f"priors {path}"), ""


def _read_numpy(path: Path) -> NDArray[Any]:
    # A mapped .npy declares its shape against the file's true length; nothing is allocated on its word.
    if path.suffix == ".npy":
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    with np.load(path, allow_pickle=False) as archive:
        if len(archive.files) != 1:
            raise UsageError(f"priors {path}: holds the arrays {archive.files[:10]}, expected exactly one")
        if sum(entry.file_size for entry in archive.zip.filelist) > _FILE_LIMIT_BYTES:
            raise UsageError(f"priors {path}: unpacks to more than {_FILE_LIMIT_BYTES} bytes, which no prior file does")
        return np.asarray(archive[archive.files[0]])


def _rows(values: NDArray[Any], what: str) -> NDArray[np.float64]:
    values = np.squeeze(values, axis=0) if values.ndim == 3 and len(values) == 1 else values
    if values.ndim != 2 or values.shape[1] != 4 or not len(values) or values.dtype.kind not in "fiu":
        raise UsageError(f"{what}: {values.dtype} numbers of shape {values.shape}, expected (N, 4)")
    if not np.isfinite(values).all():
        raise UsageError(f"{what}: some numbers are not finite")
    return values.astype(np.float64)


def detect_format(values: NDArray[np.float64]) -> str | None:
    """Which of FORMATS the values (N, 4) have; None where they do not say."""
    corners = bool((values[:, 2:] > values[:, :2]).all())
    centres = (values[:, :2] + values[:, 2:]) / 2 if corners else values[:, :2]
    if not corners and not (values[:, 2:] > 0).all():
        return None
    change = np.abs(np.diff(centres, axis=0)).sum(axis=0)
    if max(change) < 2 * min(change) or not max(change) > 0:
        return None
    x_first = change[0] > change[1]
    if corners:
        return "xyxy" if x_first else "yxyx"
    return "cxcywh" if x_first else "cycxhw"


def to_centres(values: NDArray[np.float64], form: str, input_wh: tuple[int, int]) -> NDArray[np.float64]:
    """Priors (N, 4) of format `form`, in pixels or in units of the input, as cx, cy, w, h in units of the input.

    Raises:
        ModelError: the values are neither plausible pixels nor plausible fractions, or a box has no area.
    """
    boxes = values[:, [1, 0, 3, 2]] if form in ("cycxhw", "yxyx") else values.copy()
    if form in ("xyxy", "yxyx"):
        boxes = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
    extent = float(np.abs(boxes[:, :2]).max())
    if not (boxes[:, 2:] > 0).all():
        raise ModelError(
            f"read as {form}, some priors have no positive size; state their format: --head priors_format=FORMAT, "
            f"one of {', '.join(FORMATS)}"
        )
    if extent > 2.0:
        if extent < 8.0 or extent > 2.0 * max(input_wh):
            raise ModelError(
                f"prior centres reach {extent:g}: neither fractions of the input (0..1) nor pixels of "
                f"{input_wh[0]}x{input_wh[1]}; check the file and its format"
            )
        boxes = boxes / np.array([*input_wh, *input_wh], np.float64)
    return boxes


def generate_priors(spec: Mapping[str, Any], input_wh: tuple[int, int]) -> NDArray[np.float64]:
    """Priors (N, 4) as cx, cy, w, h in units of the input, from a specification.

    `{"generator": "torchvision", "feature_maps": [[38, 38], ...], "aspect_ratios": [[2], [2, 3], ...],
    "scales": [...], "steps": [...], "clip": true}` follows torchvision's DefaultBoxGenerator (`scales` may be
    replaced by `min_ratio` and `max_ratio`; `steps`, pixels, may be absent).
    `{"generator": "tf", "feature_maps": ..., "min_scale": 0.2, "max_scale": 0.95, "aspect_ratios": [1, 2, 0.5],
    "reduce_boxes_in_lowest_layer": true, "interpolated_scale_aspect_ratio": 1.0}` follows the TensorFlow Object
    Detection API's ssd_anchor_generator (`scales` may replace the first two). Feature maps are height, width.

    Raises:
        UsageError: a key is missing, unknown or not what it should be.
    """
    generators = {"torchvision": _torchvision, "tf": _tensorflow}
    chosen = generators.get(str(spec.get("generator")))
    if chosen is None:
        raise UsageError(f"prior specification: generator is torchvision or tf, got {spec.get('generator')!r}")
    try:
        maps = [(int(height), int(width)) for height, width in spec["feature_maps"]]
        if not maps or not all(0 < side <= 4096 for pair in maps for side in pair):
            raise ValueError(f"feature maps {maps}")
        boxes_per_cell, shifts = chosen(spec, maps, input_wh)
        count = sum(h * w * len(boxes) for (h, w), boxes in zip(maps, boxes_per_cell, strict=True))
        if count > _COUNT_LIMIT:
            raise ValueError(f"{count} priors, the limit is {_COUNT_LIMIT}")
        levels = [_tile(pair, b, s) for pair, b, s in zip(maps, boxes_per_cell, shifts, strict=True)]
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UsageError(f"prior specification: missing or wrong: {error}") from error
    return _rows(np.concatenate(levels), "prior specification")


Level = tuple[list[list[tuple[float, float]]], list[tuple[float, float]]]


def _torchvision(spec: Mapping[str, Any], maps: list[tuple[int, int]], input_wh: tuple[int, int]) -> Level:
    ratios, count = spec["aspect_ratios"], len(maps)
    scales = spec.get("scales")
    if scales is None:
        low, high = float(spec.get("min_ratio", 0.15)), float(spec.get("max_ratio", 0.9))
        scales = [low + (high - low) * k / max(count - 1, 1) for k in range(count)] + [1.0]
    if len(scales) != count + 1 or len(ratios) != count:
        raise ValueError(f"{count} feature maps need {count} lists of ratios and {count + 1} scales")
    boxes = []
    for k in range(count):
        between = math.sqrt(scales[k] * scales[k + 1])
        level = [(scales[k], scales[k]), (between, between)]
        for ratio in ratios[k]:
            root = math.sqrt(ratio)
            level += [(scales[k] * root, scales[k] / root), (scales[k] / root, scales[k] * root)]
        boxes.append([(min(w, 1.0), min(h, 1.0)) if spec.get("clip", True) else (w, h) for w, h in level])
    steps = spec.get("steps")
    if steps is None:
        return boxes, [(1.0 / w, 1.0 / h) for h, w in maps]
    return boxes, [(step / input_wh[0], step / input_wh[1]) for step in steps]


def _tensorflow(spec: Mapping[str, Any], maps: list[tuple[int, int]], input_wh: tuple[int, int]) -> Level:
    count = len(maps)
    ratios = [float(ratio) for ratio in spec.get("aspect_ratios", (1.0, 2.0, 0.5, 3.0, 1.0 / 3))]
    scales = spec.get("scales")
    if scales is None:
        low, high = float(spec.get("min_scale", 0.2)), float(spec.get("max_scale", 0.95))
        scales = [low + (high - low) * k / max(count - 1, 1) for k in range(count)]
    scales = [*scales, 1.0]
    if len(scales) != count + 1:
        raise ValueError(f"{count} feature maps need {count} scales, got {len(scales) - 1}")
    between = float(spec.get("interpolated_scale_aspect_ratio", 1.0))
    short = min(input_wh)
    boxes = []
    for k in range(count):
        if k == 0 and spec.get("reduce_boxes_in_lowest_layer", True):
            shapes = [(0.1, 1.0), (scales[0], 2.0), (scales[0], 0.5)]
        else:
            shapes = [(scales[k], ratio) for ratio in ratios]
            if between > 0:
                shapes.append((math.sqrt(scales[k] * scales[k + 1]), between))
        boxes.append(
            [(s * math.sqrt(r) * short / input_wh[0], s / math.sqrt(r) * short / input_wh[1]) for s, r in shapes]
        )
    return boxes, [(1.0 / w, 1.0 / h) for h, w in maps]


def _tile(map_hw: tuple[int, int], boxes: list[tuple[float, float]], step: tuple[float, float]) -> NDArray[np.float64]:
    """Every cell along rows, every box shape within a cell."""
    rows, columns = map_hw
    y, x = np.meshgrid((np.arange(rows) + 0.5) * step[1], (np.arange(columns) + 0.5) * step[0], indexing="ij")
    centres = np.stack([x, y], axis=-1).reshape(-1, 1, 2)
    sizes = np.broadcast_to(np.asarray(boxes, np.float64), (rows * columns, len(boxes), 2))
    return np.concatenate([np.broadcast_to(centres, sizes.shape), sizes], axis=2).reshape(-1, 4)
