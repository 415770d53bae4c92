"""Segmentation metrics against the definitions, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgevision.errors import DatasetError
from edgevision.evaluation.classes import match_classes
from edgevision.evaluation.pixels import confusion, pixel_metrics

NAMES = ("sky", "road", "tree")
SAME = match_classes(NAMES, 3, NAMES)


@settings(deadline=None)
@given(
    arrays(np.uint8, (2, 5, 6), elements=st.sampled_from([0, 1, 2, 255])),
    arrays(np.uint8, (2, 5, 6), elements=st.integers(0, 2)),
)
def test_iou_equals_its_definition_over_all_pictures_together(truth: np.ndarray, predicted: np.ndarray) -> None:
    matrix = sum(confusion(t, p, SAME) for t, p in zip(truth, predicted, strict=True))
    assert isinstance(matrix, np.ndarray)
    judged = truth != 255
    if not judged.any():
        with pytest.raises(DatasetError, match="no pixel"):
            pixel_metrics(matrix, NAMES, SAME.judged)
        return
    expected = {
        name: ((truth == i) & (predicted == i)).sum() / ((truth == i) | ((predicted == i) & judged)).sum()
        for i, name in enumerate(NAMES)
        if (truth == i).any()
    }
    got = pixel_metrics(matrix, NAMES, SAME.judged)
    assert {name: entry["iou"] for name, entry in got["per_class"].items()} == pytest.approx(expected)
    assert got["miou"] == pytest.approx(np.mean(list(expected.values())))
    assert got["pixel_accuracy"] == pytest.approx((truth == predicted)[judged].mean())


def test_a_class_of_the_model_that_the_data_set_lacks_is_simply_wrong() -> None:
    match = match_classes(("road", "boat"), 2, NAMES)
    got = pixel_metrics(confusion(np.array([[1, 1]]), np.array([[0, 1]]), match), NAMES, match.judged)
    assert got["per_class"] == {"road": {"iou": 0.5, "pixels": 2}}


def test_a_class_of_the_data_set_that_the_model_lacks_is_left_out() -> None:
    match = match_classes(("road", "sky"), 2, NAMES)
    truth, predicted = np.array([[1, 1, 2, 2]]), np.array([[0, 0, 0, 1]])
    got = pixel_metrics(confusion(truth, predicted, match), NAMES, match.judged)
    assert (got["miou"], got["pixel_accuracy"]) == (1.0, 1.0)
    assert "tree" in match.warnings[0]


def test_masks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DatasetError, match=r"\(2, 3\).*\(3, 2\)"):
        confusion(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), SAME)
    with pytest.raises(DatasetError, match=r"values \[3, 77\]"):
        confusion(np.array([[0, 3, 77, 255]]), np.zeros((1, 4), np.uint8), SAME)
