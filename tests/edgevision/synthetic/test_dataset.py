"""Written data sets can be read back by the tools of the field and agree with the renderer."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgevision.errors import DatasetError
from edgevision.synthetic import DETECTION_CLASSES, SEGMENTATION_CLASSES, AerialScene
from edgevision.synthetic.dataset import write_dataset


def test_pycocotools_reads_the_boxes_back(tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    dataset = write_dataset(tmp_path / "set", seeds=[3, 4], frames_per_seed=2, size_wh=(640, 360), quiet=True)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "set" / "annotations.json"))
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(DETECTION_CLASSES)
    assert len(coco.getImgIds()) == 4
    for info in coco.loadImgs(coco.getImgIds()):
        seed, step = (int(part) for part in Path(info["file_name"]).stem.split("_"))
        truth = AerialScene(seed, (640, 360)).render(step * 97, with_class_map=True)
        np.testing.assert_array_equal(cv2.imread(str(dataset.images / info["file_name"])), truth.image)
        mask = cv2.imread(str(tmp_path / "set" / "masks" / info["file_name"]), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(mask, truth.class_map)
        boxes = coco.loadAnns(coco.getAnnIds(imgIds=[info["id"]]))
        found = np.array([[x, y, x + w, y + h] for x, y, w, h in (b["bbox"] for b in boxes)], np.float32).reshape(-1, 4)
        np.testing.assert_allclose(found, truth.xyxy, atol=1e-3)
        assert [b["category_id"] - 1 for b in boxes] == truth.class_id.tolist()
    assert (tmp_path / "set" / "classes.txt").read_text().split() == list(SEGMENTATION_CLASSES)
    assert dataset.coco_spec.startswith("coco:")
    assert dataset.masks_spec.startswith("masks:")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match=r"file/set"):
        write_dataset(tmp_path / "file" / "set", seeds=[1], frames_per_seed=1, size_wh=(320, 180), quiet=True)
