"""Values inside objects are counted by themselves, wherever ONNX Runtime keeps them, and weigh half of all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevision.calibration import CalibrationImages, Histogram, collect_ranges, thresholds
from edgevision.calibration.counting import Counter
from edgevision.calibration.histogram import coarsen
from edgevision.calibration.objects import CONFIDENT, MOST, Objects, map_size
from edgevision.kernels.cpu import Preprocessor
from edgevision.manifest import Preprocess

WritePictures = Callable[..., Path]
Box = tuple[float, float, float, float]

TENSORS = ["image", "relu", "signed", "clip", "sum", "pooled", "flat"]
"""Of 16 channels (whole blocks), of 24 (none), and seen through a transposition."""


def inside(boxes: np.ndarray, size_hw: tuple[int, int], input_hw: tuple[int, int]) -> np.ndarray:
    """Cell by cell: whether a box holds the cell's centre, or holds none and has its own centre in the cell."""
    found = np.zeros(size_hw, bool)
    for x0, y0, x1, y1 in np.clip(boxes, 0, np.tile(input_hw[::-1], 2)).astype(np.float64):
        hit = []
        for low, high, cells, pixels in ((y0, y1, size_hw[0], input_hw[0]), (x0, x1, size_hw[1], input_hw[1])):
            low, high = low * cells / pixels, high * cells / pixels
            held = [cell for cell in range(cells) if low <= cell + 0.5 < high]
            hit.append(held or [min(int((low + high) / 2), cells - 1)])
        found[np.ix_(*hit)] = True
    return found


def objects_of(*boxes: Box) -> Objects:
    """Objects found with certainty in an input of 32x24 pixels."""
    xyxy = np.array(boxes, np.float32).reshape(1, -1, 4)
    return Objects({"boxes": xyxy, "scores": np.ones(xyxy.shape[:2], np.float32)}, (24, 32))


edges = st.integers(-40, 160).map(lambda quarter: quarter / 4)


@given(
    st.lists(st.tuples(edges, edges, edges, edges), min_size=1, max_size=4),
    st.sampled_from([(24, 32), (12, 16), (6, 8), (3, 4)]),
)
def test_cells_are_those_whose_centre_lies_in_a_box(corners: list[Box], size_hw: tuple[int, int]) -> None:
    boxes = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners]
    expected = inside(np.array(boxes).reshape(-1, 4), size_hw, (24, 32))
    assert objects_of(*boxes).cells(size_hw).tolist() == np.flatnonzero(expected).tolist()


def test_candidates_that_are_unlikely_or_not_finite_are_no_objects() -> None:
    boxes = np.array([[[0, 0, 8, 8], [8, 0, 16, 8], [np.nan, 0, 24, 8], [16, 8, np.inf, 16]]], np.float32)
    scores = np.array([[[0.1, CONFIDENT], [0.2, 0.29], [0.9, 0.9], [0.9, 0.9]]], np.float32)
    cells = Objects({"boxes": boxes, "scores": scores}, (24, 32)).cells((24, 32))
    assert set(zip(*(axis.tolist() for axis in np.unravel_index(cells, (24, 32))), strict=True)) == {
        (y, x) for y in range(8) for x in range(8)
    }


@pytest.mark.parametrize("block", [1, 4, 16])
def test_a_value_is_found_in_any_layout(block: int) -> None:
    plain = np.arange(16 * 12 * 16, dtype=np.float32).reshape(1, 16, 12, 16)
    blocked = np.ascontiguousarray(plain.reshape(16 // block, block, 12 * 16).transpose(0, 2, 1)).reshape(plain.shape)
    found = objects_of((4, 4, 12, 10)).values(blocked, block, 0)
    assert found is not None
    assert sorted(found.ravel().tolist()) == sorted(plain[0, :, 2:5, 2:6].ravel().tolist())


def test_large_maps_are_thinned_out_by_places() -> None:
    """Never more than asked for, every place in its turn."""
    tensor = np.broadcast_to(np.arange(24 * 32, dtype=np.float32).reshape(24, 32), (1, 64, 24, 32)).copy()
    seen = []
    for phase in range(24 * 32 * 64 // MOST):
        found = objects_of((0, 0, 32, 24)).values(tensor, 1, phase)
        assert found is not None
        assert found.size == MOST
        seen.append(found[0].ravel())
    assert sorted(np.concatenate(seen).tolist()) == list(range(24 * 32))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 8, 24, 32), (24, 32)),
        ((1, 8, 3, 4), (3, 4)),
        ((1, 8, 5, 7), (5, 7)),  # rounded up by a stride of 5
        ((1, 8, 1, 1), None),
        ((1, 24, 32, 3), None),
        ((1, 4, 192, 192), None),
        ((2, 8, 24, 32), None),
        ((1, 768, 4), None),
    ],
)
def test_maps_are_told_by_their_size(shape: tuple[int, ...], expected: tuple[int, int] | None) -> None:
    assert map_size(shape, (24, 32)) == expected


def test_collected_objects_are_those_of_the_plain_graph(
    network: bytes, preprocess: Preprocess, write_pictures: WritePictures
) -> None:
    images = CalibrationImages(write_pictures(5))
    table = collect_ranges(network, TENSORS, images, preprocess, quiet=True)
    model = onnx.load_model_from_string(network)
    names = [name for name in TENSORS if name not in ("image", "flat")]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    prepare, counter = Preprocessor(preprocess), Counter()
    array = np.zeros(prepare.shape, np.float32)
    expected = {name: Histogram() for name in [*names, "image"]}
    share = []
    for _, image in images:
        prepare(image, array[0])
        found = dict(
            zip([*names, "boxes", "scores"], session.run([*names, "boxes", "scores"], {"image": array}), strict=True)
        )
        found["image"] = array
        boxes = found["boxes"][0][found["scores"][0, :, 0] >= CONFIDENT]
        for name, histogram in expected.items():
            mask = inside(boxes, found[name].shape[2:], (24, 32))
            share.append(mask.mean())
            if mask.any():
                counter.add(histogram, np.ascontiguousarray(found[name][0][:, mask]))
    assert 0 < np.mean(share) < 0.5
    for name, histogram in expected.items():
        collected = table[name].objects
        assert collected is not None
        assert collected.exponent == table[name].exponent
        assert collected.counts.tolist() == coarsen(histogram.counts, collected.exponent - histogram.exponent).tolist()
    assert table["flat"] is table["pooled"]


def test_without_objects_nothing_weighs_more(
    network: bytes, preprocess: Preprocess, write_pictures: WritePictures
) -> None:
    """A graph without decoded boxes; and one that finds nothing."""
    images = CalibrationImages(write_pictures(3))
    model = onnx.load_model_from_string(network)
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "b4")
    bias.raw_data = np.float32(-50).tobytes()
    nothing = collect_ranges(model.SerializeToString(), TENSORS, images, preprocess, quiet=True)
    del model.graph.output[1:]
    headless = collect_ranges(model.SerializeToString(), TENSORS, images, preprocess, quiet=True)
    for table in (nothing, headless):
        assert all(histogram.objects is None for histogram in table.values())


def test_half_of_all_square_errors_lie_inside_objects() -> None:
    """A tenth of the values reaches far and lies inside objects."""
    random = np.random.default_rng(0)
    background = random.normal(0, 1, 90_000).astype(np.float32)
    found = random.normal(0, 8, 10_000).astype(np.float32)
    histogram, counter = Histogram(Histogram()), Counter()
    assert histogram.objects is not None
    for values in (background, found):
        counter.add(histogram, values)
    counter.add(histogram.objects, found)
    weighted = 10 * histogram.counts + 100 * coarsen(
        histogram.objects.counts, histogram.exponent - histogram.objects.exponent
    )
    args = histogram.width, histogram.minimum, histogram.maximum
    assert histogram.affine_range("mse") == pytest.approx(thresholds.affine(weighted, *args, "mse"))
    alone = Histogram()
    for values in (background, found):
        counter.add(alone, values)
    assert histogram.symmetric_limit("mse") > alone.symmetric_limit("mse")
    for method in ("percentile", "entropy", "minmax"):
        assert histogram.symmetric_limit(method) == alone.symmetric_limit(method)
