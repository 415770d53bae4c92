"""What a resample says is what the evaluator says of the same pictures, each as often as it was drawn."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevision.errors import UsageError
from edgevision.evaluation import BoxDataset, MaskDataset, evaluate, open_dataset
from edgevision.evaluation.boxes import Found, coco_metrics, run_cocoeval
from edgevision.evaluation.datasets import IGNORE, BoxTruth, boxes
from edgevision.evaluation.resampling import resampled_precision
from tests.edgevision.evaluation.kit import SIDE, boxes_dataset, masks_dataset, write_detector, write_segmenter

CLASSES = 4
NAMES = tuple("abcd")


def scene(seed: int, pictures: int) -> tuple[list[BoxTruth], list[Found]]:
    """Objects, some of them crowds or difficult, and boxes near and far from them; scores tie between pictures."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for _ in range(pictures):
        corner, size = rng.uniform(0, 60, (6, 2)), rng.uniform(8, 30, (6, 2))
        xyxy, classes = np.hstack([corner, corner + size]), rng.integers(0, CLASSES, 6)
        rows = [
            ((x1, y1, x2, y2), int(c), float(w * h), bool(crowd), bool(hard))
            for (x1, y1, x2, y2), c, (w, h), crowd, hard in zip(
                xyxy.tolist(), classes, size, rng.random(6) < 0.15, rng.random(6) < 0.15, strict=True
            )
        ]
        truth.append(boxes(rows[: int(rng.integers(1, 7))]))
        boxes_found = np.concatenate([xyxy + rng.normal(0, 2, (6, 4)), xyxy + rng.normal(0, 6, (6, 4))])
        boxes_found[:, 2:] = np.maximum(boxes_found[:, 2:], boxes_found[:, :2] + 1)
        found.append(Found(boxes_found, rng.permutation(20)[:12] / 20, np.tile(classes, 2)))
    return truth, found


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 3), min_size=5, max_size=5))
def test_average_precision_is_that_of_the_pictures_repeated(seed: int, times: list[int]) -> None:
    truth, found = scene(seed, 5)
    evaluation = run_cocoeval(truth, found, range(CLASSES))
    draws = np.array([[1] * 5, times])
    repeated = np.repeat(np.arange(5), times)
    expected = [float("nan")] * 2
    for i, numbers in enumerate((range(5), repeated)):
        if any((~(truth[p].crowd | truth[p].difficult)).any() for p in numbers):
            chosen = [truth[p] for p in numbers], [found[p] for p in numbers]
            expected[i] = coco_metrics(*chosen, NAMES, range(CLASSES), 0.5)["map_50_95"]
    np.testing.assert_allclose(resampled_precision(evaluation, draws), expected, rtol=1e-12, atol=1e-15)


def drawn(dataset: BoxDataset | MaskDataset, numbers: list[int]) -> BoxDataset | MaskDataset:
    """A data set of these pictures, one after another."""
    fields = ("pictures", "truth" if isinstance(dataset, BoxDataset) else "masks")
    chosen: dict[str, Any] = {name: tuple(getattr(dataset, name)[n] for n in numbers) for name in fields}
    return dataclasses.replace(dataset, **chosen)


@pytest.mark.parametrize("task", ["boxes", "masks"])
def test_a_bundle_is_judged_as_on_the_pictures_repeated(tmp_path: Path, task: str) -> None:
    bundle, spec, figure = (
        (write_detector(tmp_path / "a.edge"), boxes_dataset(tmp_path), "map_50_95")
        if task == "boxes"
        else (write_segmenter(tmp_path / "a.edge"), masks_dataset(tmp_path)[0], "miou")
    )
    dataset = open_dataset(spec)
    draws = np.array([[1, 1, 1, 1, 1, 1], [0, 2, 0, 1, 3, 0], [6, 0, 0, 0, 0, 0]])
    (found,) = evaluate(bundle, dataset, draws=draws)["resampled"]
    numbers = [np.repeat(np.arange(6), row).tolist() for row in draws]
    expected = [evaluate(bundle, drawn(dataset, row))[figure] for row in numbers]
    assert len(set(expected)) == 3
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("task", ["boxes", "masks"])
def test_pictures_with_nothing_to_find_have_no_figure(tmp_path: Path, task: str) -> None:
    spec = boxes_dataset(tmp_path) if task == "boxes" else masks_dataset(tmp_path)[0]
    bundle = write_detector(tmp_path / "a.edge") if task == "boxes" else write_segmenter(tmp_path / "a.edge")
    if task == "masks":
        cv2.imwrite(str(tmp_path / "masks/0.png"), np.full((SIDE, SIDE), IGNORE, np.uint8))
    dataset = open_dataset(spec)
    if isinstance(dataset, BoxDataset):
        dataset = dataclasses.replace(dataset, truth=(boxes([]), *dataset.truth[1:]))
    (found,) = evaluate(bundle, dataset, draws=np.array([[6, 0, 0, 0, 0, 0], [5, 1, 0, 0, 0, 0]]))["resampled"]
    assert np.isnan(found).tolist() == [True, False]


def test_each_dithered_run_is_resampled(tmp_path: Path) -> None:
    bundle, dataset = write_detector(tmp_path / "a.edge"), open_dataset(boxes_dataset(tmp_path, pictures=40))
    got: dict[str, Any] = evaluate(bundle, dataset, repeats=2, draws=np.ones((1, 40), np.int64))
    assert [values[0] for values in got["resampled"]] == pytest.approx([run["map_50_95"] for run in got["runs"]])
    assert "resampled" not in evaluate(bundle, dataset, repeats=2)


def test_draws_of_another_number_of_pictures_are_refused(tmp_path: Path) -> None:
    bundle, dataset = write_detector(tmp_path / "a.edge"), open_dataset(boxes_dataset(tmp_path))
    with pytest.raises(UsageError, match=r"from 4 pictures, got draws of shape \(1, 6\)"):
        evaluate(bundle, dataset, limit=4, draws=np.ones((1, 6), np.int64))
