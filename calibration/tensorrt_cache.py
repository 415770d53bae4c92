"""TensorRT's calibration cache: ranges that TensorRT 8 to 10 measured, as text, from and to our range table.

    TRT-8601-EntropyCalibration2
    input: 3c010a14
    conv1: 3d2b7f3e

The first line names version and algorithm; then one tensor per line with its scale, the eight hexadecimal digits of a
big-endian float32. A tensor's INT8 range is -127 to 127 scales. Format as written by `IInt8Calibrator` of TensorRT 8.6
and read by its samples (github.com/NVIDIA/TensorRT, samples/common).
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from pathlib import Path

from edgevision.calibration.fields import MAX_BYTES
from edgevision.calibration.histogram import Histogram
from edgevision.calibration.stated import StatedRange
from edgevision.calibration.table import RangeTable
from edgevision.errors import CalibrationError, UsageError

ALGORITHMS = {"entropy": "EntropyCalibration2", "minmax": "MinMaxCalibration"}
_HEAD = re.compile(r"TRT-(\d+)-(\w+)")
_LINE = re.compile(r"(.+): ?([0-9a-fA-F]{1,8})")
_LEVELS = 127


def is_cache(content: bytes) -> bool:
    """Whether a file's beginning is that of a calibration cache."""
    return content.startswith(b"TRT-")


def header(version: str, algorithm: str) -> str:
    """The first line that a TensorRT expects; it leaves other caches aside.

    Args:
        version: like `8.6.1`.
        algorithm: one of ALGORITHMS.

    Raises:
        UsageError: the version is none that has calibrators.
    """
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    major, minor, patch = (int(number) for number in numbers.groups()) if numbers else (0, 0, 0)
    if not 8 <= major <= 10:
        raise UsageError(f"TensorRT 8 to 10 read calibration caches; got version {version!r}, expected one like 8.6.1")
    # NV_TENSORRT_VERSION: 8.6.1 is 8601, and since 10 the minor version has two digits more: 10.3.0 is 100300.
    number = major * 10_000 + minor * 100 + patch if major >= 10 else major * 1000 + minor * 100 + patch
    return f"TRT-{number}-{ALGORITHMS[algorithm]}"


def write_cache(table: Mapping[str, Histogram], version: str, algorithm: str, method: str) -> str:
    """A calibration cache with the range of every tensor of `table`.

    Args:
        table: tensor -> range.
        version, algorithm: see `header`.
        method: how a range is chosen from a histogram, see `thresholds.METHODS`.

    Raises:
        UsageError: see `header`.
        CalibrationError: a tensor's name or range has no place in the format.
    """
    lines = [header(version, algorithm)]
    for name, histogram in table.items():
        try:
            scale = struct.pack(">f", histogram.symmetric_limit(method) / _LEVELS)
        except OverflowError as error:
            raise CalibrationError(f"the range of {name!r} has no float32 scale") from error
        if not name or not name.isprintable() or name != name.strip():
            raise CalibrationError(
                f"tensor name {name!r} cannot stand in a calibration cache: it is not one plain line"
            )
        lines.append(f"{name}: {scale.hex()}")
    return "\n".join(lines) + "\n"


def read_cache(content: bytes) -> RangeTable:
    """The ranges in a calibration cache that anybody may have written.

    Raises:
        CalibrationError: it is not one, or says something impossible; names the line.
    """
    if len(content) > MAX_BYTES:
        raise CalibrationError(f"a calibration cache has at most {MAX_BYTES} bytes, this one has {len(content)}")
    try:
        first, *rest = content.decode().splitlines()
    except ValueError as error:  # no line at all, or not UTF-8
        raise CalibrationError(f"not a calibration cache: {error}") from error
    if _HEAD.fullmatch(first.strip()) is None:
        raise CalibrationError(f"not a calibration cache: it begins with {first[:60]!r}, expected like TRT-8601-...")
    histograms: dict[str, Histogram] = {}
    for number, line in enumerate(rest, 2):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise CalibrationError(f"calibration cache, line {number}: expected NAME: HEX, got {line[:80]!r}")
        (scale,) = struct.unpack(">f", bytes.fromhex(match[2].zfill(8)))
        if not math.isfinite(scale) or scale <= 0:
            raise CalibrationError(f"calibration cache, line {number}: {match[1][:80]!r} has the scale {scale}")
        histograms[match[1]] = StatedRange(scale * _LEVELS)
    if not histograms:
        raise CalibrationError("the calibration cache names no tensor")
    return RangeTable(key=first.strip(), images=0, skipped=(), warnings=(), histograms=histograms)


def read_cache_file(path: Path | str) -> RangeTable | None:
    """The ranges in the file `path`; None where it is missing or something else.

    Raises:
        CalibrationError: it is a damaged calibration cache.
    """
    try:
        with Path(path).open("rb") as handle:
            content = handle.read(MAX_BYTES + 1)
    except OSError:
        return None
    return read_cache(content) if is_cache(content) else None
