"""Were there enough pictures, and which of them set the ranges: on ranges whose answer is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
from hypothesis import given
from hypothesis import strategies as st

from edgevision.calibration import CalibrationImages, Histogram, RangeTable, collect_ranges
from edgevision.calibration.growth import EARLY, SHARES, Growth
from edgevision.calibration.saturation import markdown, saturation, summary
from edgevision.manifest import Preprocess

WritePictures = Callable[..., Path]

PICTURES = st.lists(
    st.tuples(st.floats(0, 100, width=32), st.integers(0, SHARES - 1), st.sampled_from("abcdef")), min_size=1
)


@given(PICTURES, st.randoms(), st.integers(0, 20))
def test_growth_is_the_same_in_any_order_and_division(
    pictures: list[tuple[float, int, str]], random: object, cut: int
) -> None:
    """Against what the definition says; pictures of one digest are copies, so they reach the same."""
    pictures = list({digest: (size, share, digest) for size, share, digest in pictures}.values())
    shuffled = list(pictures)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first, second = Growth(), Growth()
    for number, picture in enumerate(shuffled):
        (first if number < cut else second).add(*picture)
    first.merge(second)
    sizes = sorted((size for size, _, _ in pictures), reverse=True)
    assert first.limit == sizes[0]
    assert first.runner_up == (sizes[1] if len(sizes) > 1 else 0.0)
    assert first.early == max((size for size, share, _ in pictures if share < EARLY), default=0.0)
    assert first.picture == (min(digest for size, _, digest in pictures if size == sizes[0]) if sizes[0] else "")
    assert Growth.from_json(first.to_json()).to_json() == first.to_json()


def grown(*reach: tuple[float, int, str]) -> Growth:
    growth = Growth()
    for size, share, digest in reach:
        growth.add(size, share, digest)
    return growth


def table_of(growth: dict[str, Growth], pictures: int = 32) -> RangeTable:
    return RangeTable("key", pictures, (), (), {name: Histogram() for name in growth}, growth)


def test_the_last_quarter_tells_if_there_are_enough() -> None:
    settled, nearly = grown((2.0, 0, "a"), (1.9, 15, "b")), grown((2.0, 7, "a"), (2.1, 13, "b"))
    growing = grown((1.0, 3, "a"), (4.0, 12, "c"))
    facts = saturation(table_of({"settled": settled, "nearly": nearly, "growing": growing}), None)
    assert facts["held_back"] == {"widened": 1, "worst": {"tensor": "growing", "from": 1.0, "to": 4.0}}
    assert [row["pictures"] for row in facts["growth"]] == list(range(2, 34, 2))
    assert [row["complete"] for row in facts["growth"]] == [1] * 12 + [2, 3, 3, 3]
    assert facts["growth"][0]["reached"] == round(1 / 3, 4)
    assert facts["growth"][11]["reached"] == round((1 + 2 / 2.1 + 0.25) / 3, 4)
    assert summary(facts)[0] == (
        "the last quarter of 32 pictures widened 1 of 3 ranges by more than 10% (worst: 'growing' from 1 to 4): "
        "more would make them surer"
    )
    enough = saturation(table_of({"settled": settled, "nearly": nearly}), None)
    assert summary(enough)[0].endswith("0 of 2 ranges by more than 10%: there are enough")


def test_pictures_that_stretch_ranges_are_named(
    network: bytes, preprocess: Preprocess, write_pictures: WritePictures
) -> None:
    """Grey pictures, and one that is black and white: it sets every range that a picture can."""
    folder = write_pictures(0)
    for i in range(12):
        cv2.imwrite(str(folder / f"grey{i}.png"), np.full((24, 32, 3), 110 + i, np.uint8))
    stripes = np.zeros((24, 32, 3), np.uint8)
    stripes[12:] = 255
    cv2.imwrite(str(folder / "stripes.png"), stripes)
    images = CalibrationImages(folder)
    tensors = ["image", "relu", "signed", "sum", "pooled"]
    facts = saturation(collect_ranges(network, tensors, images, preprocess, quiet=True), images)
    assert facts["ranges"] == 5
    assert facts["set_by"][0]["picture"] == "stripes.png"
    assert facts["set_by"][0]["ranges"] == 5
    assert "image" in facts["set_by"][0]["stretched"]
    assert facts["farthest"]["image"]["picture"] == "stripes.png"
    assert facts["farthest"]["image"]["without"] < facts["farthest"]["image"]["limit"]
    assert "stripes.png set most ranges, 5 of 5" in summary(facts)[1]
    text = "\n".join(markdown(facts))
    assert "| stripes.png | 5 | image" in text
    assert text.count("%") == 17


def test_tensors_with_the_same_values_count_once(
    network: bytes, preprocess: Preprocess, write_pictures: WritePictures
) -> None:
    images = CalibrationImages(write_pictures(3))
    table = collect_ranges(network, ["pooled", "moved", "flat"], images, preprocess, quiet=True)
    for found in (table, RangeTable.from_json(table.to_json())):
        assert list(saturation(found, images)["farthest"]) == ["pooled"]


def test_a_range_that_reached_its_operators_limit_is_no_finding(
    network: bytes, preprocess: Preprocess, write_pictures: WritePictures
) -> None:
    """Clip is cut at 0.01 here, which every picture reaches; the sum after it is free."""
    model = onnx.load_model_from_string(network)
    six = next(tensor for tensor in model.graph.initializer if tensor.name == "six")
    six.CopyFrom(onnx.numpy_helper.from_array(np.float32(0.01), "six"))
    images = CalibrationImages(write_pictures(5))
    table = collect_ranges(model.SerializeToString(), ["clip", "sum"], images, preprocess, quiet=True)
    assert list(saturation(table, images)["farthest"]) == ["sum"]


def test_a_table_of_stated_ranges_has_nothing_to_say() -> None:
    assert summary(saturation(table_of({}), None)) == []
