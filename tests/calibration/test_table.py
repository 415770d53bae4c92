"""A range table survives its file, and a file that was tampered with survives nobody."""

from __future__ import annotations

import base64
import copy
import dataclasses
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevision.calibration import CalibrationImages, Histogram, RangeTable, load_or_collect
from edgevision.calibration.counting import Counter
from edgevision.calibration.growth import Growth
from edgevision.errors import CalibrationError
from edgevision.manifest import Preprocess

WritePictures = Callable[..., Path]


def make_table() -> RangeTable:
    rng = np.random.default_rng(0)
    histograms = {}
    for name, values in {
        "signed": rng.standard_normal(5000),
        "relu": np.maximum(rng.standard_normal(5000), 0),
        "dead": np.zeros(10),
        "tiny": rng.standard_normal(100) * 1e-35,
    }.items():
        histograms[name] = Histogram()
        Counter().add(histograms[name], values.astype(np.float32))
    histograms["signed"].chosen = ("percentile", "mse")
    histograms["signed"].objects = Histogram()
    Counter().add(histograms["signed"].objects, np.linspace(-1, 1, 100, dtype=np.float32))
    histograms["empty"] = Histogram()
    histograms["again"] = histograms["relu"]
    growth = Growth()
    for share in range(16):
        growth.add(1.0 + share % 5, share, f"{share:064x}")
    return RangeTable("key", 30, ("bad.jpg",), ("one was skipped",), histograms, {"signed": growth})


TEXT = make_table().to_json()
DATA = json.loads(TEXT)


def test_a_table_survives_its_file() -> None:
    table, original = RangeTable.from_json(TEXT), make_table()
    assert (table.key, table.images, table.skipped, table.warnings) == ("key", 30, ("bad.jpg",), ("one was skipped",))
    assert list(table) == list(original)
    for name, histogram in original.items():
        assert np.array_equal(table[name].counts, histogram.counts)
        assert table[name].chosen == histogram.chosen
        assert (table[name].objects is None) == (histogram.objects is None)
        assert (table[name].exponent, table[name].minimum, table[name].maximum) == (
            histogram.exponent,
            histogram.minimum,
            histogram.maximum,
        )
    assert table["again"] is table["relu"]
    growth = table.growth["signed"]
    assert (growth.limit, growth.picture, growth.runner_up) == (5.0, f"{4:064x}", 5.0)
    assert table.to_json() == TEXT


def test_a_hundred_signed_tensors_take_little_room() -> None:
    histogram = Histogram()
    Counter().add(histogram, np.random.default_rng(0).laplace(size=250_000).astype(np.float32))
    copies = {f"tensor{i}": copy.copy(histogram) for i in range(100)}
    assert len(RangeTable("key", 1, (), (), copies).to_json()) < 3_000_000


def packed(*counts: int) -> str:
    return base64.b64encode(zlib.compress(np.array(counts, "<i8").tobytes())).decode()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format_version",), 1),
        (("key",), 3),
        (("images",), True),
        (("skipped",), "bad.jpg"),
        (("skipped",), [1]),
        (("tensors",), []),
        (("extra",), 1),
        (("tensors", "relu"), None),
        (("tensors", "relu", "minimum"), "0"),
        (("tensors", "relu", "minimum"), 10.0),
        (("tensors", "relu", "maximum"), float("nan")),
        (("tensors", "relu", "maximum"), 1e300),
        (("tensors", "relu", "maximum"), None),
        (("tensors", "relu", "exponent"), 5000),
        (("tensors", "relu", "exponent"), 3),
        (("tensors", "relu", "counts"), ["", "", ""]),
        (("tensors", "relu", "counts"), ["no base64!", ""]),
        (("tensors", "relu", "counts"), [base64.b64encode(b"not deflated").decode(), ""]),
        (("tensors", "relu", "counts"), [packed(1)[:-8], ""]),
        (("tensors", "relu", "counts"), [base64.b64encode(zlib.compress(bytes(10**7))).decode(), ""]),
        (("tensors", "relu", "counts"), [packed(-1), ""]),
        (("tensors", "relu", "counts"), [packed(1 << 62), ""]),
        (("tensors", "relu", "counts"), ["", packed(0, 5)]),
        (("tensors", "relu", "counts"), ["", packed(1)]),
        (("tensors", "empty", "counts"), [packed(1), ""]),
        (("tensors", "relu", "chosen"), ["mse"]),
        (("tensors", "relu", "chosen"), ["mse", "auto"]),
        (("tensors", "relu", "objects"), {}),
        (("tensors", "relu", "objects"), {"stated": 1.0}),
        (("tensors", "signed", "objects", "objects"), DATA["tensors"]["tiny"]),
        (("tensors", "tiny", "objects"), DATA["tensors"]["relu"]),
        (("growth",), {"unknown": DATA["growth"]["signed"]}),
        (("growth", "signed", "reach"), [1.0] * 15),
        (("growth", "signed", "reach"), [-1.0] * 16),
        (("growth", "signed", "runner_up"), 5.5),
        (("growth", "signed", "picture"), 7),
        (("tensors", "again", "same_as"), "nowhere"),
        (("tensors", "again", "same_as"), "again"),
        (("tensors", "again", "same_as"), []),
    ],
)
def test_what_does_not_fit_is_refused(path: tuple[str, ...], value: Any) -> None:
    data = copy.deepcopy(DATA)
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(CalibrationError, match="calibrate again"):
        RangeTable.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["", "{", "null", "[" * 100_000, b"\xff\xfe\x00", "1" * 5000, '{"tensors": {}}'])
def test_what_is_no_table_is_refused(text: str | bytes) -> None:
    with pytest.raises(CalibrationError):
        RangeTable.from_json(text)


def test_a_huge_file_is_refused_unread() -> None:
    with pytest.raises(CalibrationError, match="at most"):
        RangeTable.from_json(b" " * (1 << 26) + b"1")


@given(st.integers(0, len(TEXT) - 1), st.binary(min_size=1, max_size=4))
def test_damage_anywhere_is_refused_or_harmless(place: int, junk: bytes) -> None:
    """Never another exception, and whatever is accepted gives finite grids."""
    data = TEXT.encode()
    try:
        table = RangeTable.from_json(data[:place] + junk + data[place + len(junk) :])
    except CalibrationError:
        return
    for histogram in table.values():
        assert np.isfinite(histogram.symmetric_limit("minmax"))


@pytest.fixture
def setting(network: bytes, preprocess: Preprocess, write_pictures: WritePictures, tmp_path: Path) -> dict[str, Any]:
    return {
        "cache": tmp_path / "ranges.json",
        "graph": network,
        "tensors": ["relu", "sum"],
        "images": CalibrationImages(write_pictures(3)),
        "preprocess": preprocess,
        "quiet": True,
    }


def test_a_table_that_fits_is_reused(setting: dict[str, Any]) -> None:
    first, note = load_or_collect(**setting)
    assert "collected from 3 pictures" in note
    written = setting["cache"].read_bytes()
    again, note = load_or_collect(**setting)
    assert "reused" in note
    assert again.to_json() == first.to_json()
    assert setting["cache"].read_bytes() == written


@pytest.mark.parametrize("change", ["graph", "tensors", "images", "preprocess"])
def test_whatever_it_depends_on_makes_a_new_one(setting: dict[str, Any], change: str) -> None:
    first, _ = load_or_collect(**setting)
    other = dict(setting)
    if change == "graph":
        other["graph"] = setting["graph"].replace(b"small", b"SMALL")
    elif change == "tensors":
        other["tensors"] = ["relu", "clip"]
    elif change == "images":
        other["images"] = CalibrationImages(setting["images"].pattern, limit=2)
    else:
        other["preprocess"] = dataclasses.replace(setting["preprocess"], resize="letterbox")
    second, note = load_or_collect(**other)
    assert "not reused: it is for another" in note
    assert second.key != first.key
    assert RangeTable.from_json(setting["cache"].read_bytes()).key == second.key


def test_a_damaged_file_is_replaced_with_a_note(setting: dict[str, Any]) -> None:
    setting["cache"].write_bytes(TEXT.encode()[:-100])
    table, note = load_or_collect(**setting)
    assert "not reused: not a usable range table" in note
    assert RangeTable.from_json(setting["cache"].read_bytes()).key == table.key


def test_without_a_file_nothing_is_written(setting: dict[str, Any], tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    load_or_collect(**{**setting, "cache": None})
    assert sorted(tmp_path.iterdir()) == before
