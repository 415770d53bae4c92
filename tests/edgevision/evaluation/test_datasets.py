"""Labelled data sets: what is read, and what is refused with a reason."""

from __future__ import annotations

import contextlib
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevision.errors import DatasetError, EdgeVisionError, UsageError
from edgevision.evaluation import BoxDataset, MaskDataset, open_dataset
from edgevision.evaluation.masks import read_mask
from edgevision.labels import BUILT_IN


def picture(path: Path, size_wh: tuple[int, int] = (20, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((size_wh[1], size_wh[0], 3), 128, np.uint8))
    return path


# --- COCO -------------------------------------------------------------------------------------------------------


def coco(folder: Path, **changes: Any) -> str:
    """A small valid data set with `changes` to its JSON; returns the spec."""
    picture(folder / "images" / "a.png")
    picture(folder / "images" / "sub" / "b.png")
    data = {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 20, "height": 10},
            {"id": 3, "file_name": "sub/b.png", "width": 20, "height": 10},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 2, "name": "bicycle"}],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 18, "bbox": [1, 2, 3.5, 4], "area": 9.5, "iscrowd": 1},
            {"id": 2, "image_id": 3, "category_id": 2, "bbox": [0, 0, 5, 2]},
        ],
    }
    (folder / "a.json").write_text(json.dumps({**data, **changes}))
    return f"coco:{folder / 'a.json'}:{folder / 'images'}"


def test_coco_pictures_boxes_and_classes(tmp_path: Path) -> None:
    dataset = open_dataset(coco(tmp_path))
    assert isinstance(dataset, BoxDataset)
    assert dataset.classes == ("bicycle", "dog")
    assert [p.path.name for p in dataset.pictures] == ["a.png", "b.png"]
    assert dataset.pictures[1].read().shape == (10, 20, 3)
    assert len(dataset.truth[0].xyxy) == 0
    truth = dataset.truth[1]
    assert truth.xyxy.tolist() == [[1, 2, 4.5, 6], [0, 0, 5, 2]]
    assert truth.class_id.tolist() == [1, 0]
    assert truth.area.tolist() == [9.5, 10]
    assert truth.crowd.tolist() == [True, False]


def test_coco_agrees_with_pycocotools_on_real_labels(shared: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from pycocotools.coco import COCO

    folder = shared / "data/coco_val_a"
    dataset = open_dataset(f"coco:{folder}/boxes_coco.json:{folder}/images")
    assert isinstance(dataset, BoxDataset)
    reference = COCO(str(folder / "boxes_coco.json"))
    assert len(dataset.pictures) == 64
    assert sum(len(t.xyxy) for t in dataset.truth) == 461
    for picture_, truth in zip(dataset.pictures, dataset.truth, strict=True):
        records = reference.imgToAnns[int(picture_.path.stem)]
        names = [reference.cats[r["category_id"]]["name"] for r in records]
        assert [dataset.classes[i] for i in truth.class_id] == names
        xywh = np.array([r["bbox"] for r in records]).reshape(-1, 4)
        np.testing.assert_allclose(truth.xyxy, np.c_[xywh[:, :2], xywh[:, :2] + xywh[:, 2:]])
    capfd.readouterr()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": {}}, "a list `images`"),
        ({"images": []}, "not in `images`"),
        ({"images": [], "annotations": []}, "empty"),
        ({"images": [3]}, "expected an object"),
        ({"images": [{"id": "x", "file_name": "a.png"}]}, "whole number"),
        ({"images": [{"id": 3, "file_name": "a.png"}] * 2}, "2 entries but only 1"),
        ({"images": [{"id": 3, "file_name": "../a.json"}]}, "outside"),
        ({"images": [{"id": 3, "file_name": "/etc/passwd"}]}, "outside"),
        ({"images": [{"id": 3, "file_name": "a\0b"}]}, "plain text"),
        ({"images": [{"id": 3, "file_name": "x" * 5000}]}, "looked up|are not in"),
        ({"images": [{"id": 3, "file_name": "c.png"}]}, r"1 of 1 pictures are not in .*c\.png"),
        ({"categories": [{"id": 2}]}, "name None"),
        ({"categories": [{"id": 2, "name": "bicycle"}]}, "category_id 18"),
        ({"annotations": [{"image_id": 99, "category_id": 2, "bbox": [0, 0, 1, 1]}]}, "image_id 99"),
        ({"annotations": [{"image_id": [], "category_id": 2, "bbox": [0, 0, 1, 1]}]}, r"image_id \[\]"),
        ({"annotations": [{"image_id": 3, "category_id": 2}]}, "bbox None"),
        ({"annotations": [{"image_id": 3, "category_id": 2, "bbox": [0, 0, 1]}]}, "bbox"),
        ({"annotations": [{"image_id": 3, "category_id": 2, "bbox": [0, 0, -1, 1]}]}, "negative"),
        ({"annotations": [{"image_id": 3, "category_id": 2, "bbox": [0, 0, float("nan"), 1]}]}, "finite"),
        ({"annotations": [{"image_id": 3, "category_id": 2, "bbox": [0, 0, 10**400, 1]}]}, "finite"),
        ({"annotations": [{"image_id": 3, "category_id": 2, "bbox": [0, 0, "1", 1]}]}, "finite"),
    ],
)
def test_coco_faults_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        open_dataset(coco(tmp_path, **changes))


@pytest.mark.parametrize("content", [b"", b"{", b'{"images": [', b"[]", b"\xff\xfe", b'{"a":' * 100_000])
def test_coco_files_that_are_not_json_objects_are_refused(tmp_path: Path, content: bytes) -> None:
    spec = coco(tmp_path)
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DatasetError, match=r"a\.json"):
        open_dataset(spec)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_any_json_in_place_of_a_coco_value_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("coco")
    spec = coco(folder)
    content = json.loads((folder / "a.json").read_text())
    records = content[data.draw(st.sampled_from(["images", "annotations", "categories"]))]
    records[0][data.draw(st.sampled_from(sorted(records[0])))] = data.draw(json_values)
    (folder / "a.json").write_text(json.dumps(content))
    with contextlib.suppress(DatasetError):  # any other error fails the test
        open_dataset(spec)


def test_a_picture_of_another_size_than_its_labels_say_is_refused(tmp_path: Path) -> None:
    dataset = open_dataset(coco(tmp_path))
    picture(tmp_path / "images" / "a.png", (40, 30))
    with pytest.raises(DatasetError, match=r"40x30.*20x10"):
        dataset.pictures[0].read()
    (tmp_path / "images" / "a.png").write_bytes(b"not a picture")
    with pytest.raises(DatasetError, match=r"a\.png"):
        dataset.pictures[0].read()


def test_a_picture_labelled_before_its_rotation_mark_is_read_as_stored(tmp_path: Path) -> None:
    spec = coco(tmp_path, images=[{"id": 3, "file_name": "a.jpg", "width": 20, "height": 10}])
    plain = picture(tmp_path / "images" / "a.jpg").read_bytes()
    tags = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x0112, 3, 1, 6, 0)  # TIFF: orientation 6, turn right
    exif = b"Exif\0\0" + tags
    marked = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]
    (tmp_path / "images" / "a.jpg").write_bytes(marked)
    assert cv2.imread(str(tmp_path / "images" / "a.jpg")).shape == (20, 10, 3)
    assert open_dataset(spec).pictures[0].read().shape == (10, 20, 3)


# --- VOC --------------------------------------------------------------------------------------------------------


def voc_xml(name: str = "dog", box: str = "2,3,6,9", extra: str = "", size: str = "20,10") -> str:
    keys = zip(("xmin", "ymin", "xmax", "ymax"), box.split(","), strict=True)
    frame = "".join(f"<{k}>{v}</{k}>" for k, v in keys)
    w, h = size.split(",")
    return (
        f"<annotation><filename>../../etc/passwd</filename><size><width>{w}</width><height>{h}</height></size>"
        f"<object><name>{name}</name>{extra}<bndbox>{frame}</bndbox></object></annotation>"
    )


def devkit(root: Path, **annotations: str) -> Path:
    (root / "Annotations").mkdir(parents=True)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for stem, xml in annotations.items():
        (root / "Annotations" / f"{stem}.xml").write_text(xml)
        picture(root / "JPEGImages" / f"{stem}.jpg")
    return root


def test_voc_boxes_measure_from_edge_to_edge(tmp_path: Path) -> None:
    hard = voc_xml("sofa", extra="<difficult>1</difficult>")
    dataset = open_dataset(f"voc:{devkit(tmp_path, one=voc_xml(), two=hard)}")
    assert isinstance(dataset, BoxDataset)
    assert dataset.classes == BUILT_IN["voc21"][1:]
    assert dataset.pictures[0].size_wh == (20, 10)
    # Pixels 2..6 and 3..9, counted from 1 and inclusive, are 5 x 7 pixels.
    assert dataset.truth[0].xyxy.tolist() == [[1, 2, 6, 9]]
    assert dataset.truth[0].area.tolist() == [35]
    assert dataset.truth[0].difficult.tolist() == [False]
    assert dataset.truth[1].difficult.tolist() == [True]


def test_voc_split_chooses_pictures(tmp_path: Path) -> None:
    root = devkit(tmp_path, one=voc_xml(), two=voc_xml(), three=voc_xml())
    (root / "ImageSets/Main/val.txt").write_text("three\none\n")
    (root / "ImageSets/Main/dog_val.txt").write_text("one  1\ntwo -1\n")
    assert [p.path.stem for p in open_dataset(f"voc:{root}:val").pictures] == ["three", "one"]
    assert [p.path.stem for p in open_dataset(f"voc:{root}:dog_val").pictures] == ["one", "two"]
    assert len(open_dataset(f"voc:{root}").pictures) == 3
    with pytest.raises(DatasetError, match=r"'train'.*\['dog_val', 'val'\]"):
        open_dataset(f"voc:{root}:train")
    with pytest.raises(DatasetError, match="no split"):
        open_dataset(f"voc:{root}:../../Annotations/one")
    (root / "ImageSets/Main/bad.txt").write_text("../../../secret\n")
    with pytest.raises(DatasetError, match=r"names .*secret"):
        open_dataset(f"voc:{root}:bad")


def test_voc_folder_of_another_layout_is_found_where_it_is_clear(shared: Path) -> None:
    dataset = open_dataset(f"voc:{shared}/data/bccd_test60")
    assert isinstance(dataset, BoxDataset)
    assert dataset.classes == ("Platelets", "RBC", "WBC")
    reference = json.loads((shared / "data/bccd_test60/boxes_coco.json").read_text())
    ids = {record["file_name"]: record["id"] for record in reference["images"]}
    names = {record["id"]: record["name"] for record in reference["categories"]}
    assert sum(len(t.xyxy) for t in dataset.truth) == len(reference["annotations"]) == 779
    for picture_, truth in zip(dataset.pictures, dataset.truth, strict=True):
        records = [r for r in reference["annotations"] if r["image_id"] == ids[picture_.path.name]]
        assert [dataset.classes[i] for i in truth.class_id] == [names[r["category_id"]] for r in records]
        x, y, w, h = np.array([r["bbox"] for r in records], float).T
        # That file keeps xmin..xmax as they are; we begin one pixel earlier (but not outside the picture).
        expected = np.stack([np.maximum(x - 1, 0), np.maximum(y - 1, 0), x + w, y + h], axis=1)
        np.testing.assert_array_equal(truth.xyxy, expected)


BOMB = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;">]><annotation><object><name>&y;</name></object></annotation>'
OUTSIDE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>'


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("", "not XML"),
        (voc_xml()[:-20], "cut off"),
        ("<html/>", "<html>"),
        (BOMB, "document type"),
        (OUTSIDE, "document type"),
        (BOMB.encode("utf-16").decode("latin-1"), "document type|not XML"),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', "not XML"),
        (voc_xml(box="2,3,x,9"), "<xmax> is 'x'"),
        (voc_xml(box="2,3,inf,9"), "<xmax> is 'inf'"),
        (voc_xml(box="6,3,2,9"), "ends before"),
        (voc_xml(size="many,10"), "<width>"),
        (voc_xml(name=""), "no <name>"),
        ("<annotation><object><name>dog</name></object></annotation>", "no <bndbox>"),
        ("<a>" * 50_000, "not XML"),
        ("<a>" * 50_000 + "</a>" * 50_000, "<a>"),
    ],
)
def test_voc_faults_are_named(tmp_path: Path, xml: str, message: str) -> None:
    root = devkit(tmp_path, one=voc_xml())
    (root / "Annotations/one.xml").write_bytes(xml.encode("latin-1"))
    with pytest.raises(DatasetError, match=message):
        open_dataset(f"voc:{root}")


def test_voc_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        open_dataset(f"voc:{tmp_path / 'absent'}")
    with pytest.raises(DatasetError, match="JPEGImages"):
        open_dataset(f"voc:{tmp_path}")
    root = devkit(tmp_path / "voc", one=voc_xml())
    (root / "Annotations/two.xml").write_text(voc_xml())
    with pytest.raises(DatasetError, match=r"1 of 2 annotations have no picture.*'two'"):
        open_dataset(f"voc:{root}")
    picture(root / "JPEGImages/two.jpg")
    picture(root / "JPEGImages/two.png")
    with pytest.raises(DatasetError, match="which belongs"):
        open_dataset(f"voc:{root}")


# --- masks ------------------------------------------------------------------------------------------------------


def png(values: np.ndarray, depth: int, colour: int) -> bytes:
    """A PNG written by hand: one channel of `depth` bits, with a palette when `colour` is 3."""
    h, w = values.shape

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    if depth == 16:
        rows = [row.astype(">u2").tobytes() for row in values]
    else:
        bits = np.unpackbits(values.astype(np.uint8)[..., None], axis=2)[:, :, 8 - depth :].reshape(h, -1)
        rows = [np.packbits(row).tobytes() for row in bits]
    palette = bytes(i * 37 % 256 for i in range(3 * 2 ** min(depth, 8)))
    extra = chunk(b"PLTE", palette) + chunk(b"tRNS", b"\0\x80") if colour == 3 else b""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + extra + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize(("depth", "colour"), [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (1, 3), (2, 3), (4, 3), (8, 3)])
def test_masks_give_the_stored_values_not_colours(tmp_path: Path, depth: int, colour: int) -> None:
    values = np.random.default_rng(depth).integers(0, 2**depth, (5, 13))
    (tmp_path / "m.png").write_bytes(png(values, depth, colour))
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), values)


def test_masks_meet_their_pictures(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        picture(tmp_path / "images" / name)
    (tmp_path / "masks").mkdir()
    for name in ("a.png", "c.png"):
        (tmp_path / "masks" / name).write_bytes(png(np.zeros((10, 20)), 8, 3))
    (tmp_path / "names.txt").write_text("ground\nwater\n")
    spec = f"masks:{tmp_path}/images:{tmp_path}/masks"
    dataset = open_dataset(f"{spec}:{tmp_path}/names.txt")
    assert isinstance(dataset, MaskDataset)
    assert dataset.classes == ("ground", "water")
    assert [p.path.name for p in dataset.pictures] == ["a.jpg", "c.jpg"]
    assert "1 pictures without a mask" in dataset.warnings[0]
    assert open_dataset(f"{spec}:voc21").classes == BUILT_IN["voc21"]
    assert open_dataset(spec).classes == ()
    with pytest.raises(DatasetError, match="holds no PNG masks"):
        open_dataset(f"masks:{tmp_path}/images:{tmp_path}")
    with pytest.raises(UsageError, match="built-in"):
        open_dataset(f"{spec}:voc2012")
    (tmp_path / "masks/d.png").write_bytes(png(np.zeros((10, 20)), 8, 3))
    with pytest.raises(DatasetError, match=r"1 of 3 masks have no picture.*'d'"):
        open_dataset(spec)


def test_masks_that_are_no_index_pngs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    good = png(np.zeros((4, 4)), 8, 3)
    assert cv2.imwrite(str(path), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(DatasetError, match="colours instead of class indices"):
        read_mask(path)
    for content, message in (
        (b"", "not a PNG"),
        (b"GIF89a" + bytes(100), "not a PNG"),
        (good[:40], "cannot be decoded|damaged"),
        (good[:16] + struct.pack(">II", 1 << 30, 1 << 30) + good[24:], "pixels, the limit"),
    ):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=message):
            read_mask(path)


@settings(deadline=None, max_examples=100)
@given(st.integers(8, 120), st.binary(min_size=1, max_size=6))
def test_damaged_masks_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, at: int, noise: bytes) -> None:
    path = tmp_path_factory.mktemp("mask") / "m.png"
    good = png(np.arange(12).reshape(3, 4), 8, 3)
    path.write_bytes(good[:at] + noise + good[at + len(noise) :])
    with contextlib.suppress(DatasetError):  # any other error fails the test
        read_mask(path)


# --- specs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec", ["", "coco", "coco:a.json", "coco:a.json:", "coco:a:b:c", "voc", "voc:a:b:c", "masks:a", "imagenet:a"]
)
def test_specs_of_another_form_are_refused_with_the_forms(spec: str) -> None:
    with pytest.raises(UsageError, match="coco:ANNOTATIONS"):
        open_dataset(spec)


def test_a_colon_in_a_path_is_escaped(tmp_path: Path) -> None:
    folder = tmp_path / "12:30"
    folder.mkdir()
    spec = coco(folder)
    with pytest.raises(EdgeVisionError):
        open_dataset(spec)
    kind, rest = spec.split(":", 1)
    annotations, images = rest.split(".json:")
    escaped = [part.replace(":", "\\:") for part in (annotations + ".json", images)]
    assert len(open_dataset(":".join([kind, *escaped])).pictures) == 2
