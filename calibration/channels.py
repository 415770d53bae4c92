"""Minimum and maximum of every channel of a tensor: what equalising channels needs to know."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgevision.calibration.checkpoint import Checkpoint
from edgevision.calibration.fields import MAX_BYTES, check_keys, typed
from edgevision.calibration.images import CalibrationImages
from edgevision.calibration.observation import observe
from edgevision.calibration.passes import Picture, Tensors, not_finite, run_pass
from edgevision.calibration.table import table_key
from edgevision.errors import CalibrationError
from edgevision.manifest import Preprocess
from edgevision.optional import require

Floats = NDArray[np.float32]

FORMAT_VERSION: Final = 2
_PLANES: Final = 4
"""Tensors of this rank are (batch, channels, height, width)."""
_SMALL: Final = 1 << 8
_ENDS: Final = ("minimum", "maximum")


@dataclass(frozen=True, eq=False)
class ChannelRanges:
    """One tensor's channels: axis 1 where its rank is 4, else the last axis.

    Attributes:
        minimum, maximum: float32 (channels,), exact, over all pictures and places.
    """

    minimum: Floats
    maximum: Floats


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


def _pack(row: Floats) -> str:
    return base64.b64encode(row.astype("<f4").tobytes()).decode()


def _unpack(text: Any) -> Floats:
    return np.frombuffer(base64.b64decode(typed(text, str, "packed numbers"), validate=True), "<f4").astype(np.float32)


def _ranges(entry: Any, name: str) -> ChannelRanges:
    check_keys(entry, set(_ENDS), f"tensor {name!r}")
    minimum, maximum = (_unpack(entry[key]) for key in _ENDS)
    if minimum.shape != maximum.shape:
        raise ValueError(f"minimum and maximum of {name!r} differ in length")
    if not (np.isfinite([minimum, maximum]).all() and (minimum <= maximum).all()):
        raise ValueError(f"minimum and maximum of {name!r} do not fit together")
    return ChannelRanges(minimum, maximum)


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
    return ChannelTable(
        key=table_key(graph, tensors, images, preprocess),
        images=len(images) - len(images.skipped),
        ranges={name: _without_signs_of_zero(total.found[name]) for name in tensors},
    )


class _Channels:
    """Channels of all observed tensors over some pictures."""

    def __init__(self, tensors: Sequence[str]) -> None:
        self._names = tuple(dict.fromkeys(tensors))
        self.found: dict[str, ChannelRanges] = {}

    def see(self, tensors: Tensors, picture: Picture) -> None:
        for name in self._names:
            low, high = reduce_channels(tensors[name])
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                raise not_finite(name, picture, "not finite")
            self._add(name, low, high)

    def _add(self, name: str, low: Floats, high: Floats) -> None:
        if name in self.found:
            known = self.found[name]
            low, high = np.minimum(known.minimum, low), np.maximum(known.maximum, high)
        self.found[name] = ChannelRanges(low, high)

    def merge(self, other: _Channels) -> None:
        for name, found in other.found.items():
            self._add(name, found.minimum, found.maximum)

    def to_json(self) -> dict[str, Any]:
        return {name: {key: _pack(row) for key, row in vars(found).items()} for name, found in self.found.items()}

    def restore(self, data: Any) -> None:
        check_keys(data, set(self._names), "the findings")
        self.found = {name: _ranges(data[name], name) for name in self._names}


def _without_signs_of_zero(found: ChannelRanges) -> ChannelRanges:
    """With 0.0 for -0.0: the order of the pictures would show."""
    return ChannelRanges(found.minimum + np.float32(0), found.maximum + np.float32(0))


def reduce_channels(values: Floats) -> tuple[Floats, Floats]:
    """Minimum and maximum per channel of one picture's tensor, (channels,) each."""
    if values.ndim != _PLANES:
        return _columns(values.reshape(-1, values.shape[-1] if values.ndim else 1))
    batch, channels, height, width = values.shape
    if height * width < _SMALL and batch == 1:  # short rows are slow to reduce
        return _columns(require("cv2", "calibration").transpose(values.reshape(channels, -1)))
    planes = values.reshape(batch, channels, -1)
    return planes.min(axis=2).min(axis=0), planes.max(axis=2).max(axis=0)


def _columns(rows: Floats) -> tuple[Floats, Floats]:
    return rows.min(axis=0), rows.max(axis=0)
