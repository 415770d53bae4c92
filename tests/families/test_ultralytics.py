"""Ultralytics' exports, random weights, against what its own tool finds in the same pictures.

Ultralytics runs as a program of its own (ultralytics_reference.py) that leaves graphs and results in a folder.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgevision.results import Detections
from tests.families.comparing import Boxes, assert_same_boxes, bundle, load, pictures

WH, THRESHOLD = (160, 128), 0.25
# The tool folds normalisations before it runs, and a distribution over 16 bins enlarges what that changes.
PIXELS = 0.5
DETECTORS = {
    "yolov3-tiny": "yolov8",
    "yolov5n": "yolov8",
    "yolov6n": "yolov8",
    "yolov8n": "yolov8",
    "yolov9t": "yolov8",
    "yolo11n": "yolov8",
    "yolo12n": "yolov8",
    "yolov10n@end2end=False": "yolov8",
    "yolo26n@end2end=False": "yolov8",
    "yolov10n@end2end=True": "final",
    "yolo26n@end2end=True": "final",
    "yolov8n@nms": "yolov8",
    "rtdetr-l": "final",
}
OTHERS = ["yolov8n-seg", "yolo11n-seg", "yolov8n-pose", "yolo11n-pose", "yolov8n-cls", "yolo11n-cls"]
Reference = Callable[[int, str], tuple[Path, list[dict[str, NDArray[np.float32]]]]]


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """The graph of a case and what the tool found in each picture."""
    folders: dict[int, Path] = {}

    def made(seed: int, case: str) -> tuple[Path, list[dict[str, NDArray[np.float32]]]]:
        if seed not in folders:
            folders[seed] = tmp_path_factory.mktemp("ultralytics")
            np.save(folders[seed] / "pictures.npy", np.stack(pictures(seed, WH)))
            run_tool(folders[seed], seed)
        failure = folders[seed] / f"{case}.txt"
        assert not failure.exists(), failure.read_text()
        found = np.load(folders[seed] / f"{case}.npz")
        count = len(pictures(seed, WH))
        return folders[seed] / f"{case}.onnx", [
            {name[:-1]: found[name] for name in found.files if name.endswith(str(number))} for number in range(count)
        ]

    return made


def run_tool(folder: Path, seed: int) -> None:
    """Let Ultralytics' own interpreter work through all cases."""
    python = os.environ["ULTRALYTICS_PYTHON"]
    script = Path(__file__).with_name("ultralytics_reference.py")
    quiet = {"YOLO_CONFIG_DIR": str(folder), "YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true"}
    subprocess.run(
        [python, str(script), str(folder), str(seed), *DETECTORS, *OTHERS],
        cwd=folder,
        env={**os.environ, **quiet},
        check=True,
        timeout=1200,
    )


def boxes(found: dict[str, NDArray[np.float32]]) -> Boxes:
    rows = found["boxes"]
    rows = rows[(rows[:, 2:4] > rows[:, :2]).all(axis=1)]  # random distances turn some inside out
    return Boxes(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64))


def partner(ours: Detections, row: NDArray[np.float32]) -> int:
    """Number of the box that is this one: many are cut to the whole picture, their scores tell them apart."""
    apart = np.abs(ours.xyxy - row[:4]).max(axis=1) + 1e4 * np.abs(ours.confidence - row[4])
    return int((apart + 1e4 * (ours.class_id != row[5])).argmin())


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("case", DETECTORS)
def test_detectors(case: str, seed: int, reference: Reference) -> None:
    path, found = reference(seed, case)
    with load(bundle(path), confidence=THRESHOLD, max_detections=3000) as model:
        assert model.manifest.family == DETECTORS[case]
        for picture, theirs in zip(pictures(seed, WH), found, strict=True):
            rounded = len(theirs["boxes"]) // 200  # theirs adds 7680 per class: in float32 steps of 1/32 pixel
            assert_same_boxes(model(picture), boxes(theirs), threshold=THRESHOLD, pixels=PIXELS, flips=rounded)


@pytest.mark.parametrize("case", [case for case in OTHERS if "seg" in case])
def test_masks(case: str, seed: int, reference: Reference) -> None:
    path, found = reference(seed, case)
    with load(bundle(path), confidence=THRESHOLD, max_detections=3000) as model:
        for picture, theirs in zip(pictures(seed, WH), found, strict=True):
            ours = model(picture)
            assert_same_boxes(ours, boxes(theirs), threshold=THRESHOLD, pixels=PIXELS)
            assert ours.mask is not None
            shared, union = 0, 0
            for box, mask in zip(theirs["boxes"], theirs["masks"] > 0.5, strict=True):
                nearest = partner(ours, box)
                shared += (ours.mask[nearest] & mask).sum()
                union += (ours.mask[nearest] | mask).sum()
            assert shared >= 0.98 * union > 0


@pytest.mark.parametrize("case", [case for case in OTHERS if "pose" in case])
def test_keypoints(case: str, seed: int, reference: Reference) -> None:
    path, found = reference(seed, case)
    with load(bundle(path), confidence=THRESHOLD, max_detections=3000) as model:
        for picture, theirs in zip(pictures(seed, WH), found, strict=True):
            ours = model(picture)
            assert_same_boxes(ours, boxes(theirs), threshold=THRESHOLD, pixels=PIXELS)
            assert ours.keypoints is not None
            for box, points in zip(theirs["boxes"], theirs["keypoints"], strict=True):
                nearest = partner(ours, box)
                inside = ours.keypoints[nearest].copy()
                inside[:, :2] = inside[:, :2].clip(0, WH)
                np.testing.assert_allclose(inside, points, atol=0.1)


@pytest.mark.parametrize("case", [case for case in OTHERS if "cls" in case])
def test_classifiers(case: str, seed: int, reference: Reference) -> None:
    path, found = reference(seed, case)
    with load(bundle(path)) as model:
        for picture, theirs in zip(pictures(seed, WH), found, strict=True):
            np.testing.assert_allclose(model(picture).scores, theirs["probabilities"], atol=1e-4)
