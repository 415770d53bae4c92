"""The range table: a histogram per tensor, as a file that is read with distrust and reused when it still fits."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgevision.calibration.fields import MAX_BYTES, check_keys, texts, typed
from edgevision.calibration.growth import Growth
from edgevision.calibration.histogram import BINS, HIGHEST, LOWEST, Histogram, exponent_for
from edgevision.calibration.images import CalibrationImages
from edgevision.calibration.objects import CONFIDENT
from edgevision.calibration.stated import StatedRange
from edgevision.calibration.thresholds import METHODS
from edgevision.errors import CalibrationError
from edgevision.files import sha256
from edgevision.manifest import Preprocess

FORMAT_VERSION: Final = 3
_MAX_TENSORS: Final = 4096
_MAX_TOTAL: Final = 1 << 62


@dataclass(frozen=True, eq=False)
class RangeTable(Mapping[str, Histogram]):
    """Tensor name -> Histogram, in the order asked for; tensors with the same values share one.

    Attributes:
        key: hash of what the ranges depend on (see table_key).
        images: number of pictures that were observed.
        skipped: names of those that could not be read.
        warnings: sentences for the user: pictures skipped, tensors without a value.
        histograms: the table itself.
        growth: of the tensors that were measured: how their ranges grew.
    """

    key: str
    images: int
    skipped: tuple[str, ...]
    warnings: tuple[str, ...]
    histograms: Mapping[str, Histogram] = field(repr=False)
    growth: Mapping[str, Growth] = field(default_factory=dict, repr=False)

    def __getitem__(self, tensor: str) -> Histogram:
        return self.histograms[tensor]

    def __iter__(self) -> Iterator[str]:
        return iter(self.histograms)

    def __len__(self) -> int:
        return len(self.histograms)

    @property
    def methods_chosen(self) -> bool:
        """Whether the method AUTO has been settled for every tensor that was measured."""
        return all(found.chosen for found in self.values() if not isinstance(found, StatedRange))

    def to_json(self) -> str:
        """The table as text; the same text for the same findings."""
        first: dict[int, str] = {}
        tensors: dict[str, Any] = {}
        for name, histogram in self.histograms.items():
            original = first.setdefault(id(histogram), name)
            tensors[name] = histogram_to_json(histogram) if original == name else {"same_as": original}
        growth = {name: self.growth[name].to_json() for name in tensors if name in self.growth}
        head = {"format_version": FORMAT_VERSION, "key": self.key, "images": self.images}
        lists = {"skipped": self.skipped, "warnings": self.warnings}
        return json.dumps({**head, **lists, "growth": growth, "tensors": tensors}, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> RangeTable:
        """Read a table that anybody may have written.

        Raises:
            CalibrationError: it is not a table of this version, or contradicts itself.
        """
        if len(text) > MAX_BYTES:
            raise CalibrationError(f"a range table has at most {MAX_BYTES} bytes, this one has {len(text)}")
        try:
            data = json.loads(text)
            return _table(data)
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError, zlib.error) as error:
            raise CalibrationError(f"not a usable range table ({error}); calibrate again") from error


def table_key(graph: bytes, tensors: Sequence[str], images: CalibrationImages, preprocess: Preprocess) -> str:
    """Hash of everything a table depends on: graph, tensors, picture contents, preprocessing, resolution."""
    parts = {
        "format_version": FORMAT_VERSION,
        "graph": sha256(graph),
        "tensors": list(tensors),
        "images": images.sha256,
        "preprocess": dataclasses.asdict(preprocess),
        "bins": BINS,
        "objects": CONFIDENT,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def histogram_to_json(histogram: Histogram) -> dict[str, Any]:
    """A histogram as plain data."""
    if isinstance(histogram, StatedRange):
        return {"stated": histogram.stated}
    empty = not math.isfinite(histogram.minimum)
    return {
        "minimum": None if empty else histogram.minimum,
        "maximum": None if empty else histogram.maximum,
        "exponent": histogram.exponent,
        "counts": [_pack(row) for row in histogram.counts],
        "chosen": None if histogram.chosen is None else list(histogram.chosen),
        "objects": None if histogram.objects is None else histogram_to_json(histogram.objects),
    }


def _pack(row: NDArray[np.int64]) -> str:
    """Counts up to the last that is not zero, as little-endian 64-bit numbers, deflated, base64."""
    used = int(np.flatnonzero(row)[-1]) + 1 if row.any() else 0
    return base64.b64encode(zlib.compress(row[:used].astype("<i8").tobytes(), 1)).decode() if used else ""


def _unpack(text: str) -> NDArray[np.int64]:
    row = np.zeros(BINS, np.int64)
    if text:
        inflate = zlib.decompressobj()
        data = inflate.decompress(base64.b64decode(text, validate=True), 8 * BINS)
        if not inflate.eof or inflate.unconsumed_tail or inflate.unused_data or len(data) % 8:
            raise ValueError("packed counts are damaged")
        row[: len(data) // 8] = np.frombuffer(data, "<i8")
    if row.min() < 0 or int(row.max()) > _MAX_TOTAL // (2 * BINS):
        raise ValueError("counts are out of range")
    return row


def _table(data: Any) -> RangeTable:
    check_keys(data, {"format_version", "key", "images", "skipped", "warnings", "growth", "tensors"}, "the table")
    if data["format_version"] != FORMAT_VERSION:
        raise ValueError(f"format version {data['format_version']!r}, expected {FORMAT_VERSION}")
    tensors, growth = (typed(data[key], dict, key) for key in ("tensors", "growth"))
    if len(tensors) > _MAX_TENSORS or not growth.keys() <= tensors.keys():
        raise ValueError(f"tensors has at most {_MAX_TENSORS} entries, and growth none that it lacks")
    histograms: dict[str, Histogram] = {}
    for name, entry in tensors.items():
        if isinstance(entry, dict) and entry.keys() == {"same_as"}:
            histograms[name] = histograms[typed(entry["same_as"], str, "same_as")]
        else:
            histograms[name] = histogram_from_json(entry, name)
    return RangeTable(
        key=typed(data["key"], str, "key"),
        images=typed(data["images"], int, "images"),
        skipped=texts(data["skipped"], "skipped"),
        warnings=texts(data["warnings"], "warnings"),
        histograms=histograms,
        growth={name: Growth.from_json(entry) for name, entry in growth.items()},
    )


def histogram_from_json(entry: Any, name: str) -> Histogram:
    """Read what `histogram_to_json` wrote, or anybody else; ValueError for what contradicts itself."""
    if isinstance(entry, dict) and entry.keys() == {"stated"}:
        stated = typed(entry["stated"], float, "stated")
        if not 0 < stated < math.inf:
            raise ValueError(f"the stated range of {name!r} is a positive number")
        return StatedRange(stated)
    keys = {"minimum", "maximum", "exponent", "counts", "chosen", "objects"}
    check_keys(entry, keys, f"tensor {name!r}")
    histogram = Histogram()
    if entry["chosen"] is not None:
        symmetric, affine = texts(entry["chosen"], "chosen")
        if not {symmetric, affine} <= {*METHODS}:
            raise ValueError(f"the chosen methods of {name!r} are two of {METHODS}")
        histogram.chosen = (symmetric, affine)
    histogram.exponent = typed(entry["exponent"], int, "exponent")
    if not LOWEST <= histogram.exponent <= HIGHEST:
        raise ValueError(f"exponent of {name!r} is in {LOWEST}..{HIGHEST}")
    if entry["objects"] is not None:
        check_keys(entry["objects"], keys, f"objects of tensor {name!r}")
        if entry["objects"]["objects"] is not None:
            raise ValueError(f"objects of tensor {name!r} have none of their own")
        inner = histogram.objects = histogram_from_json(entry["objects"], f"{name}, objects")
        if inner.exponent > histogram.exponent:
            raise ValueError(f"objects of tensor {name!r} reach further than it does")
    rows = texts(entry["counts"], "counts")
    if len(rows) != 2:
        raise ValueError(f"counts of {name!r} are two texts")
    histogram.counts = np.stack([_unpack(row) for row in rows])
    if entry["minimum"] is None and entry["maximum"] is None and not histogram.total:
        return histogram
    histogram.minimum, histogram.maximum = (typed(entry[key], float, key) for key in ("minimum", "maximum"))
    bounded = -(2.0**128) < histogram.minimum <= histogram.maximum < 2.0**128
    if not bounded or exponent_for(histogram.limit) != histogram.exponent or histogram.counts[1, 0]:
        raise ValueError(f"minimum, maximum and exponent of {name!r} do not fit together")
    for row, end in zip(histogram.counts, (histogram.maximum, -histogram.minimum), strict=True):
        if row.any() and np.flatnonzero(row)[-1] > max(end, 0.0) / histogram.width:
            raise ValueError(f"counts of {name!r} lie outside its minimum and maximum")
    return histogram
