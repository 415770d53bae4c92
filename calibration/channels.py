"""Minimum, maximum and mean of every channel of a tensor: what equalising channels needs to know."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgevision.calibration.checkpoint import Checkpoint
from edgevision.calibration.exact_sum import WORDS, ExactSum
from edgevision.calibration.fields import MAX_BYTES, check_keys, typed
from edgevision.calibration.images import CalibrationImages
from edgevision.calibration.observation import observe
from edgevision.calibration.passes import Picture, Tensors, not_finite, run_pass
from edgevision.calibration.table import table_key
from edgevision.errors import CalibrationError
from edgevision.manifest import Preprocess
from edgevision.optional import require

Floats = NDArray[np.float32]

FORMAT_VERSION: Final = 1
_PLANES: Final = 4
"""Tensors of this rank are (batch, channels, height, width)."""
_SMALL: Final = 1 << 8
_TYPES: Final = {"minimum": "<f4", "maximum": "<f4", "words": "<i8"}


@dataclass(frozen=True, eq=False)
class ChannelRanges:
    """One tensor's channels: axis 1 where its rank is 4, else the last axis.

    Attributes:
        minimum, maximum: float32 (channels,), exact, over all pictures and places.
        mean: float32 (channels,), over all places of a picture, then over the pictures.
    """

    minimum: Floats
    maximum: Floats
    mean: Floats


@dataclass(frozen=True, eq=False)
class ChannelTable(Mapping[str, ChannelRanges]):
    """Tensor name -> ChannelRanges, in the order asked for.

    Attributes:
        key: hash of what the ranges depend on.
        images: number of pictures that were observed.
        ranges: the table itself.
    """

    key: str
    images: int
    ranges: Mapping[str, ChannelRanges] = field(repr=False)

    def __getitem__(self, tensor: str) -> ChannelRanges:
        return self.ranges[tensor]

    def __iter__(self) -> Iterator[str]:
        return iter(self.ranges)

    def __len__(self) -> int:
        return len(self.ranges)

    def to_json(self) -> str:
        """The table as text; the same text for the same findings."""
        tensors = {name: {key: _pack(row) for key, row in vars(found).items()} for name, found in self.ranges.items()}
        head = {"format_version": FORMAT_VERSION, "key": self.key, "images": self.images}
        return json.dumps({**head, "channels": tensors}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> ChannelTable:
        """Read a table that anybody may have written.

        Raises:
            CalibrationError: it is not a table of this version, or contradicts itself.
        """
        if len(text) > MAX_BYTES:
            raise CalibrationError(f"a channel table has at most {MAX_BYTES} bytes, this one has {len(text)}")
        try:
            data = json.loads(text)
            check_keys(data, {"format_version", "key", "images", "channels"}, "the table")
            if data["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format version {data['format_version']!r}, expected {FORMAT_VERSION}")
            entries = typed(data["channels"], dict, "channels").items()
            ranges = {name: _ranges(entry, name) for name, entry in entries}
            return cls(typed(data["key"], str, "key"), typed(data["images"], int, "images"), ranges)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise CalibrationError(f"not a usable channel table ({error}); calibrate again") from error


def _pack(row: NDArray[Any]) -> str:
    return base64.b64encode(row.astype(row.dtype.newbyteorder("<")).tobytes()).decode()


def _unpack(text: Any, kind: str) -> NDArray[Any]:
    data = np.frombuffer(base64.b64decode(typed(text, str, "packed numbers"), validate=True), kind)
    return data.astype(data.dtype.newbyteorder("="))


def _ranges(entry: Any, name: str) -> ChannelRanges:
    check_keys(entry, {"minimum", "maximum", "mean"}, f"tensor {name!r}")
    minimum, maximum, mean = (_unpack(entry[key], "<f4") for key in ("minimum", "maximum", "mean"))
    if not minimum.shape == maximum.shape == mean.shape:
        raise ValueError(f"minimum, maximum and mean of {name!r} differ in length")
    if not (np.isfinite([minimum, maximum, mean]).all() and (minimum <= maximum).all()):
        raise ValueError(f"minimum, maximum and mean of {name!r} do not fit together")
    return ChannelRanges(minimum, maximum, mean)


def collect_channels(
    graph: bytes,
    tensors: Sequence[str],
    images: CalibrationImages,
    preprocess: Preprocess,
    *,
    checkpoint: Checkpoint | None = None,
    workers: int | None = None,
    quiet: bool = False,
) -> ChannelTable:
    """Ranges of every channel of `tensors` over all pictures, in one pass.

    The result does not depend on the order of the pictures, on their names, on the number of workers, or on whether
    the pass was stopped and went on.

    Args:
        graph, tensors, images, preprocess, checkpoint, workers, quiet: as for `collect_ranges`.

    Raises:
        CalibrationError: no picture can be read, a tensor cannot be observed, or a value is not finite.
        OSError: the checkpoint cannot be written.
    """
    total = run_pass(
        observe(graph, tensors, preprocess.input_name, in_order=True),
        lambda: _Channels(tensors),
        images,
        preprocess,
        label="measuring channels",
        checkpoint=checkpoint,
        workers=workers,
        quiet=quiet,
    )
    count = len(images) - len(images.skipped)
    return ChannelTable(
        key=table_key(graph, tensors, images, preprocess),
        images=count,
        ranges={name: total.found[name].ranges(count) for name in tensors},
    )


class _Channels:
    """Channels of all observed tensors over some pictures."""

    def __init__(self, tensors: Sequence[str]) -> None:
        self._names = tuple(dict.fromkeys(tensors))
        self.found: dict[str, _Extremes] = {}

    def see(self, tensors: Tensors, picture: Picture) -> None:
        for name in self._names:
            minimum, maximum, mean = reduce_channels(tensors[name])
            wrong = minimum[~np.isfinite(minimum)].tolist() + maximum[~np.isfinite(maximum)].tolist()
            if wrong:
                raise not_finite(name, picture, "not finite")
            if name not in self.found:
                self.found[name] = _Extremes(minimum.size)
            self.found[name].add(minimum, maximum, mean)

    def merge(self, other: _Channels) -> None:
        for name, extremes in other.found.items():
            if name in self.found:
                self.found[name].merge(extremes)
            else:
                self.found[name] = extremes.copy()

    def to_json(self) -> dict[str, Any]:
        return {name: extremes.to_json() for name, extremes in self.found.items()}

    def restore(self, data: Any) -> None:
        check_keys(data, set(self._names), "the findings")
        self.found = {name: _Extremes.from_json(data[name], name) for name in self._names}


class _Extremes:
    """What is known of one tensor's channels so far."""

    def __init__(self, channels: int) -> None:
        self.minimum = np.full(channels, np.inf, np.float32)
        self.maximum = np.full(channels, -np.inf, np.float32)
        self.sums = ExactSum(channels)

    def add(self, minimum: Floats, maximum: Floats, mean: Floats) -> None:
        np.minimum(self.minimum, minimum, out=self.minimum)
        np.maximum(self.maximum, maximum, out=self.maximum)
        self.sums.add(mean)

    def merge(self, other: _Extremes) -> None:
        np.minimum(self.minimum, other.minimum, out=self.minimum)
        np.maximum(self.maximum, other.maximum, out=self.maximum)
        self.sums.merge(other.sums)

    def copy(self) -> _Extremes:
        """One that does not change with this one."""
        twin = _Extremes(self.minimum.size)
        twin.merge(self)
        return twin

    def to_json(self) -> dict[str, str]:
        """Plain data."""
        return {"minimum": _pack(self.minimum), "maximum": _pack(self.maximum), "words": _pack(self.sums.words)}

    @classmethod
    def from_json(cls, data: Any, name: str) -> _Extremes:
        """Read what anybody may have written; ValueError for what cannot be."""
        check_keys(data, {"minimum", "maximum", "words"}, f"tensor {name!r}")
        minimum, maximum, words = (_unpack(data[key], kind) for key, kind in _TYPES.items())
        if not (minimum.size == maximum.size == words.size / WORDS and (minimum <= maximum).all()):
            raise ValueError(f"minimum, maximum and words of {name!r} do not fit together")
        found = cls(minimum.size)
        found.minimum, found.maximum, found.sums.words = minimum, maximum, words.reshape(WORDS, -1)
        return found

    def ranges(self, count: int) -> ChannelRanges:
        minimum, maximum = self.minimum + np.float32(0), self.maximum + np.float32(0)  # -0.0: the order would show
        return ChannelRanges(minimum, maximum, np.clip(self.sums.mean(count), minimum, maximum))


def reduce_channels(values: Floats) -> tuple[Floats, Floats, Floats]:
    """Minimum, maximum and mean per channel of one picture's tensor, (channels,) each."""
    if values.ndim != _PLANES:
        return _columns(values.reshape(-1, values.shape[-1] if values.ndim else 1))
    batch, channels, height, width = values.shape
    if height * width < _SMALL and batch == 1:  # short rows are slow to reduce
        return _columns(require("cv2", "calibration").transpose(values.reshape(channels, -1)))
    planes = values.reshape(batch, channels, -1)
    low, high = planes.min(axis=2).min(axis=0), planes.max(axis=2).max(axis=0)
    return low, high, _mean(planes, (0, 2))


def _columns(rows: Floats) -> tuple[Floats, Floats, Floats]:
    return rows.min(axis=0), rows.max(axis=0), _mean(rows, (0,))


def _mean(values: Floats, axes: tuple[int, ...]) -> Floats:
    """Mean over `axes`: in float32, which numpy sums by pairs along rows; of huge values in float64."""
    count = values.size // values.shape[1]
    total = values.sum(axis=axes)
    if not np.isfinite(total).all():
        total = values.sum(axis=axes, dtype=np.float64)
    return np.asarray(total / count, np.float32)
