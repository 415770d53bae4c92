"""Tensors at the edges of what is possible: correct or refused, never a scale that is not finite and positive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgevision.calibration import (
    METHODS,
    CalibrationImages,
    RangeTable,
    choose_methods,
    collect_channels,
    collect_ranges,
    load_or_collect,
    load_or_collect_channels,
)
from edgevision.calibration.saturation import markdown, saturation, summary
from edgevision.errors import CalibrationError
from edgevision.manifest import Preprocess

WritePictures = Callable[..., Path]

PREPROCESS = Preprocess("image", (8, 8))
TENSORS = ["zero", "constant", "minus", "huge", "tiny", "outlier", "half_dead", "single"]


@pytest.fixture(scope="module")
def network() -> bytes:
    """One odd tensor per operator, all from the picture's 0..255."""
    values = {"nil": 0, "three": 3, "minus_three": -3, "1e36": 1e36, "1e-42": 1e-42, "alive": [[[1]], [[0]], [[1]]]}
    constants = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in values.items()]
    constants.append(numpy_helper.from_array(np.full((3, 8, 8), 255, np.float32), "limit"))
    nodes = [
        helper.make_node("Mul", ["image", "nil"], ["zero"]),
        helper.make_node("Add", ["zero", "three"], ["constant"]),
        helper.make_node("Add", ["zero", "minus_three"], ["minus"]),
        helper.make_node("Mul", ["image", "1e36"], ["huge"]),
        helper.make_node("Mul", ["image", "1e-42"], ["tiny"]),
        helper.make_node("Equal", ["image", "limit"], ["is_white"]),
        helper.make_node("Cast", ["is_white"], ["white"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["white", "1e36"], ["far"]),
        helper.make_node("Add", ["image", "far"], ["outlier"]),
        helper.make_node("Mul", ["image", "alive"], ["half_dead"]),
        helper.make_node("ReduceMax", ["image"], ["single"]),
        helper.make_node("Log", ["image"], ["log"]),
        helper.make_node("Identity", ["log"], ["output"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in ("image", "output")]
    graph = helper.make_graph(nodes, "odd", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


@pytest.fixture
def images(write_pictures: WritePictures) -> CalibrationImages:
    """Grey ones, and one with a white pixel: an outlier of 1e36 among values below 255."""
    folder = write_pictures(16)
    spotted = np.full((8, 8, 3), 100, np.uint8)
    spotted[3, 4] = 255
    cv2.imwrite(str(folder / "spotted.png"), spotted)
    return CalibrationImages(folder)


def test_every_method_gives_grids_that_are_finite_and_positive(network: bytes, images: CalibrationImages) -> None:
    table = collect_ranges(network, TENSORS, images, PREPROCESS, quiet=True)
    choose_methods(network, table, images, PREPROCESS)
    for found in (table, RangeTable.from_json(table.to_json())):
        for name in TENSORS:
            for method in METHODS:
                limit, (low, high) = found[name].symmetric_limit(method), found[name].affine_range(method)
                assert 0 < np.float32(limit / 127) < np.inf, (name, method)
                assert 0 < np.float32((high - low) / 255) < np.inf, (name, method)
                assert low <= 0 <= high, (name, method)
    assert table["zero"].symmetric_limit("auto") == 1.0
    assert table["constant"].symmetric_limit("auto") == pytest.approx(3.0)
    assert table["minus"].affine_range("auto") == pytest.approx((-3.0, 0.0))
    assert table["outlier"].maximum == pytest.approx(1e36)
    assert any("'zero'" in warning for warning in table.warnings)


def test_the_report_names_the_picture_with_the_outlier(network: bytes, images: CalibrationImages) -> None:
    facts = saturation(collect_ranges(network, TENSORS, images, PREPROCESS, quiet=True), images)
    assert facts["farthest"]["outlier"]["picture"] == "spotted.png"
    assert facts["farthest"]["outlier"]["without"] < 256
    assert "outlier" in next(row for row in facts["set_by"] if row["picture"] == "spotted.png")["stretched"]
    assert all(np.isfinite([row["reached"], row["complete"]]).all() for row in facts["growth"])
    assert len(summary(facts)) == 2
    assert markdown(facts)


def test_channels_that_are_dead_constant_or_huge_are_what_they_are(network: bytes, images: CalibrationImages) -> None:
    table = collect_channels(network, TENSORS, images, PREPROCESS, quiet=True)
    for name in TENSORS:
        found = table[name]
        assert np.isfinite([found.minimum, found.maximum]).all(), name
        assert (found.minimum <= found.maximum).all(), name
    dead = table["half_dead"]
    assert (dead.minimum[1], dead.maximum[1]) == (0, 0)
    assert (dead.maximum[[0, 2]] > 0).all()
    assert table["constant"].minimum.tolist() == table["constant"].maximum.tolist() == [3, 3, 3]


@pytest.mark.parametrize("load", [load_or_collect, load_or_collect_channels])
def test_one_picture_with_an_infinite_activation_is_refused_by_name(
    network: bytes, images: CalibrationImages, tmp_path: Path, load: Callable[..., object]
) -> None:
    """The logarithm of black. Nothing is written, and without that picture all is well."""
    black = images.paths[0].parent / "black.png"
    cv2.imwrite(str(black), np.zeros((8, 8, 3), np.uint8))
    for path in images.paths:
        cv2.imwrite(str(path), np.maximum(cv2.imread(str(path)), 1))
    cache = tmp_path / "kept" / "ranges.json"
    cache.parent.mkdir()
    with pytest.raises(CalibrationError, match=r"tensor 'log'.*picture 'black\.png'.*leave this picture out"):
        load(cache, network, ["huge", "log"], CalibrationImages(black.parent), PREPROCESS, quiet=True)
    assert list(cache.parent.iterdir()) == []
    black.unlink()
    load(cache, network, ["huge", "log"], CalibrationImages(black.parent), PREPROCESS, quiet=True)
    assert len(list(cache.parent.iterdir())) == 1
