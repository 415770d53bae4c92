"""TensorRT's calibration cache: its text from ranges and back, and what is refused."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevision.calibration import Histogram, RangeTable
from edgevision.calibration.stated import StatedRange
from edgevision.calibration.tensorrt_cache import header, is_cache, read_cache, read_cache_file, write_cache
from edgevision.calibration.thresholds import METHODS
from edgevision.errors import CalibrationError, UsageError

# As in NVIDIA's samples and documentation.
SAMPLE = b"TRT-8601-EntropyCalibration2\ninput: 3c010a14\nconv1: 3d2b7f3e\n"
NAMES = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=30)
SCALES = st.floats(min_value=2.0**-149, max_value=float(np.finfo(np.float32).max), width=32)


def table(ranges: dict[str, Histogram]) -> RangeTable:
    return RangeTable("key", 1, (), (), ranges)


def measured(*limits: float) -> Histogram:
    histogram = Histogram()
    for limit in limits:
        histogram.extend(-limit, limit)
    return histogram


def test_a_sample_is_read() -> None:
    found = read_cache(SAMPLE)
    assert list(found) == ["input", "conv1"]
    scale = struct.unpack(">f", bytes.fromhex("3c010a14"))[0]
    assert found["input"].symmetric_limit("mse") == 127 * scale
    assert is_cache(SAMPLE)
    assert not is_cache(b'{"format_version": 1}')


def test_names_with_colons_and_short_numbers_are_read() -> None:
    """TensorRT prints the number without leading zeros; names of its own layers have spaces, colons and brackets."""
    name = "(Unnamed Layer* 3) [Convolution]_output:0"
    found = read_cache(f"TRT-8601-EntropyCalibration2\n{name}: 800000\n".encode())
    assert found[name].symmetric_limit("mse") == 127 * 2.0**-126


@given(st.dictionaries(NAMES, SCALES, min_size=1, max_size=20), st.sampled_from(METHODS))
def test_a_cache_read_and_written_again_is_the_same(scales: dict[str, float], method: str) -> None:
    lines = [header("8.6.1", "entropy"), *(f"{name}: {struct.pack('>f', s).hex()}" for name, s in scales.items())]
    text = "\n".join(lines) + "\n"
    assert write_cache(read_cache(text.encode()), "8.6.1", "entropy", method) == text


@given(st.dictionaries(NAMES, st.floats(1e-30, 1e30), min_size=1, max_size=20))
def test_ranges_survive_the_format_to_float32(limits: dict[str, float]) -> None:
    written = write_cache(
        table({name: measured(limit) for name, limit in limits.items()}), "10.3.0", "minmax", "minmax"
    )
    found = read_cache(written.encode())
    assert list(found) == list(limits)
    for name, limit in limits.items():
        assert found[name].symmetric_limit("mse") == pytest.approx(limit, rel=2.0**-23)


@given(st.dictionaries(NAMES, SCALES, min_size=1, max_size=20))
def test_a_range_table_keeps_stated_ranges(scales: dict[str, float]) -> None:
    ranges = table({name: StatedRange(127 * scale) for name, scale in scales.items()})
    again = RangeTable.from_json(ranges.to_json())
    assert {n: h.symmetric_limit("mse") for n, h in again.items()} == {n: 127 * s for n, s in scales.items()}


@given(st.binary(max_size=200))
def test_nothing_but_a_calibration_error_comes_of_any_bytes(content: bytes) -> None:
    for data in (content, b"TRT-8601-EntropyCalibration2\n" + content):
        with contextlib.suppress(CalibrationError):
            assert len(read_cache(data)) > 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a calibration cache"),
        (b"\xff\xfe", "not a calibration cache"),
        (b'{"a": 1}', "expected like TRT-8601"),
        (b"TRT-8601-EntropyCalibration2\n", "names no tensor"),
        (b"TRT-8601-EntropyCalibration2\nconv1 3d2b7f3e\n", "line 2: expected NAME: HEX"),
        (b"TRT-8601-EntropyCalibration2\nconv1: 7f800000\n", "scale inf"),
        (b"TRT-8601-EntropyCalibration2\nconv1: 0\n", "scale 0"),
        (b"TRT-8601-EntropyCalibration2\nconv1: bd2b7f3e\n", "scale -"),
    ],
)
def test_damaged_caches_are_refused_with_the_line(content: bytes, words: str) -> None:
    with pytest.raises(CalibrationError, match=words):
        read_cache(content)


@pytest.mark.parametrize(
    ("version", "first"),
    [("8.6.1", "TRT-8601-EntropyCalibration2"), ("8.5.2.2", "TRT-8502-EntropyCalibration2")]
    + [("10.3.0", "TRT-100300-EntropyCalibration2"), ("10.13.3.9", "TRT-101303-EntropyCalibration2")],
)
def test_the_first_line_names_the_version_as_tensorrt_numbers_it(version: str, first: str) -> None:
    assert header(version, "entropy") == first


@pytest.mark.parametrize("version", ["11.4.0", "7.2.3", "latest", ""])
def test_versions_without_calibrators_are_refused(version: str) -> None:
    with pytest.raises(UsageError, match=r"expected one like 8\.6\.1"):
        header(version, "entropy")


@pytest.mark.parametrize("name", ["", " a", "a\nb", "a\x00"])
def test_names_that_would_break_a_line_are_refused(name: str) -> None:
    with pytest.raises(CalibrationError, match="plain line"):
        write_cache(table({name: measured(1.0)}), "8.6.1", "entropy", "mse")


def test_only_caches_count_as_such(tmp_path: Path) -> None:
    (tmp_path / "ranges.json").write_text(table({"a": measured(1.0)}).to_json())
    assert read_cache_file(tmp_path / "ranges.json") is None
    assert read_cache_file(tmp_path / "missing.txt") is None
    (tmp_path / "cache.txt").write_bytes(SAMPLE)
    found = read_cache_file(tmp_path / "cache.txt")
    assert found is not None
    assert len(found) == 2
