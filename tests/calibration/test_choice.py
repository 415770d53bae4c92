"""Chosen methods against the errors of plain runs, and what may not change them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgevision.calibration import (
    AUTO,
    METHODS,
    CalibrationImages,
    Histogram,
    RangeTable,
    choose_methods,
    collect_ranges,
    load_or_collect,
)
from edgevision.calibration.stated import StatedRange
from edgevision.kernels.cpu import Preprocessor
from edgevision.manifest import Preprocess

WritePictures = Callable[..., Path]

TENSORS = ["image", "relu", "signed", "leaky", "clip", "sum", "pooled", "flat"]
READERS = {"image": ["w1"], "relu": ["w2", "b2"], "leaky": ["w3"]}
REAL = METHODS[1:]


def plain_errors(
    network: bytes, table: RangeTable, images: CalibrationImages, preprocess: Preprocess, tensor: str, symmetric: bool
) -> dict[str, float]:
    """Square errors behind `tensor`: quantised by numpy, read by a convolution in a session of its own."""
    model = onnx.load_model_from_string(network)
    constants = {entry.name: entry for entry in model.graph.initializer}
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in TENSORS[1:])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    reader = None
    if tensor in READERS:
        names = READERS[tensor]
        pads = [0 if tensor == "leaky" else 1] * 4
        node = helper.make_node("Conv", ["x", *names], ["y"], pads=pads)
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
        graph = helper.make_graph([node], "reader", ends[:1], ends[1:], [constants[name] for name in names])
        one = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        reader = onnxruntime.InferenceSession(one.SerializeToString(), providers=["CPUExecutionProvider"])
    prepare = Preprocessor(preprocess)
    array = np.zeros(prepare.shape, np.float32)
    totals = dict.fromkeys(REAL, 0.0)
    grids = {}
    for method in REAL:
        low, high = table[tensor].affine_range(method)
        step = (high - low) / 255
        int8 = (table[tensor].symmetric_limit(method) / 127, 0, -128, 127)
        grids[method] = int8 if symmetric else (step, round(-low / step), 0, 255)
    for _, image in images:
        prepare(image, array[0])
        values = {"image": array, **dict(zip(TENSORS[1:], session.run(TENSORS[1:], {"image": array}), strict=True))}
        exact = values[tensor]
        for method, (scale, zero, lowest, highest) in grids.items():
            rough = (np.clip(np.rint(exact / scale) + zero, lowest, highest) - zero) * scale
            pair = (rough.astype(np.float32), exact)
            a, b = pair if reader is None else (reader.run(None, {"x": x})[0] for x in pair)
            totals[method] += float(((a.astype(np.float64) - b) ** 2).sum())
    return totals


@pytest.fixture
def heavy(network: bytes) -> bytes:
    """The network with one large weight in sixteen, so that the methods disagree."""
    model = onnx.load_model_from_string(network)
    rng = np.random.default_rng(2)
    for tensor in model.graph.initializer:
        if tensor.name in ("w1", "w2"):
            values = numpy_helper.to_array(tensor).copy()
            values[rng.random(values.shape) < 1 / 16] *= 12
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    data: bytes = model.SerializeToString()
    return data


def test_no_choice_is_worse_than_the_usual_method(
    heavy: bytes, preprocess: Preprocess, write_pictures: WritePictures
) -> None:
    """On sixteen pictures, all of which are asked."""
    images = CalibrationImages(write_pictures(16))
    table = collect_ranges(heavy, TENSORS, images, preprocess, quiet=True)
    choose_methods(heavy, table, images, preprocess)
    for tensor in TENSORS[:-1]:  # `flat` shares the histogram of `pooled`
        chosen = table[tensor].chosen
        assert chosen is not None
        for method, symmetric in zip(chosen, (True, False), strict=True):
            errors = plain_errors(heavy, table, images, preprocess, tensor, symmetric)
            assert errors[method] <= errors["mse"] * (1 + 1e-4), (tensor, symmetric, errors)
    assert table["flat"].chosen == table["pooled"].chosen


def test_a_reader_that_needs_the_rare_large_values_gets_them(tmp_path: Path) -> None:
    """One pixel of each picture is bright, in one of 256 channels: worth clipping for the tensor's own error, but the
    convolution behind reads nothing but that channel."""
    rng = np.random.default_rng(4)
    for i in range(16):
        picture = rng.integers(80, 120, (24, 32, 3)).astype(np.uint8)
        picture[i, 2 * i] = 250
        cv2.imwrite(str(tmp_path / f"{i}.png"), picture)
    spread, narrow = np.full((256, 3, 1, 1), 0.1, np.float32), np.zeros((16, 256, 1, 1), np.float32)
    spread[0], narrow[:, 0] = 1.0, 1.0
    nodes = [
        helper.make_node("Conv", ["image", "spread"], ["wide"]),
        helper.make_node("Conv", ["wide", "narrow"], ["output"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 24, 32])
        for name, channels in (("image", 3), ("output", 16))
    ]
    constants = [numpy_helper.from_array(spread, "spread"), numpy_helper.from_array(narrow, "narrow")]
    graph = helper.make_graph(nodes, "picky", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    images, preprocess = CalibrationImages(tmp_path), Preprocess("image", (32, 24), mean=(100.0,) * 3, std=(20.0,) * 3)
    table = collect_ranges(model, ["wide", "output"], images, preprocess, quiet=True)
    assert table["wide"].symmetric_limit("mse") < 0.95 * table["wide"].limit
    choose_methods(model, table, images, preprocess)
    assert table["wide"].chosen == ("minmax", "minmax")


def test_order_names_and_workers_do_not_matter(
    heavy: bytes, preprocess: Preprocess, write_pictures: WritePictures, tmp_path: Path
) -> None:
    folder = write_pictures(18)
    shuffled = tmp_path / "shuffled"
    shuffled.mkdir()
    for i, number in enumerate(np.random.default_rng(3).permutation(18)):
        shutil.copy(folder / f"{number}.png", shuffled / f"{i}.png")
    texts = set()
    for pictures in (folder, shuffled):
        for workers in (1, 3):
            images = CalibrationImages(pictures)
            table = collect_ranges(heavy, TENSORS, images, preprocess, quiet=True)
            choose_methods(heavy, table, images, preprocess, workers=workers)
            texts.add(table.to_json())
    assert len(texts) == 1


def test_few_pictures_settle_nothing(heavy: bytes, preprocess: Preprocess, write_pictures: WritePictures) -> None:
    images = CalibrationImages(write_pictures(15))
    table = collect_ranges(heavy, TENSORS, images, preprocess, quiet=True)
    choose_methods(heavy, table, images, preprocess)
    assert {histogram.chosen for histogram in table.values()} == {("mse", "mse")}


def test_auto_stands_for_what_was_chosen() -> None:
    histogram = Histogram()
    histogram.extend(-3.0, 5.0)
    histogram.counts[0, :4000] = 4000 - np.arange(4000)
    for symmetric in REAL:
        for affine in REAL:
            histogram.chosen = (symmetric, affine)
            assert histogram.symmetric_limit(AUTO) == histogram.symmetric_limit(symmetric)
            assert histogram.affine_range(AUTO) == histogram.affine_range(affine)
    histogram.chosen = None
    assert histogram.symmetric_limit(AUTO) == histogram.symmetric_limit("mse")


def test_the_choice_is_kept_with_the_table(
    heavy: bytes, preprocess: Preprocess, write_pictures: WritePictures, tmp_path: Path
) -> None:
    images, cache = CalibrationImages(write_pictures(16)), tmp_path / "ranges.json"
    table, _ = load_or_collect(cache, heavy, TENSORS, images, preprocess, quiet=True)
    assert not table.methods_chosen
    chosen, _ = load_or_collect(cache, heavy, TENSORS, images, preprocess, choose=True, quiet=True)
    assert chosen.methods_chosen
    again, origin = load_or_collect(cache, heavy, TENSORS, images, preprocess, quiet=True)
    assert "reused" in origin
    assert again.to_json() == chosen.to_json()


def test_dead_constant_and_stated_tensors_need_no_choice(
    network: bytes, preprocess: Preprocess, write_pictures: WritePictures
) -> None:
    images = CalibrationImages(write_pictures(16))
    table = RangeTable("key", 16, (), (), {"relu": Histogram(), "signed": StatedRange(3.0)})
    choose_methods(network, table, images, preprocess)
    assert table["relu"].chosen == ("mse", "mse")
    assert table["signed"].symmetric_limit(AUTO) == 3.0
