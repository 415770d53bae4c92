"""COCO annotations: `coco:ANNOTATIONS.json:IMAGES`. Format: https://cocodataset.org/#format-data"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from edgevision.errors import DatasetError
from edgevision.evaluation.datasets import BoxDataset, Picture, boxes, read_limited
from edgevision.evaluation.outlines import Outline, read_outline

_FILE_LIMIT_BYTES = 512 << 20  # COCO's largest file, instances_train2017.json, has 448 MiB


def open_coco(annotations: Path, images: Path) -> BoxDataset:
    """Read and check a whole annotation file; classes are its categories by rising id.

    Raises:
        DatasetError: either is missing, the JSON is not COCO's, or a picture is missing or outside `images`.
    """
    reader = _Reader(annotations)
    categories = sorted(reader.records("categories"), key=lambda r: reader.identity(r, "categories"))
    class_of = reader.index(categories, "categories")
    names = [reader.text(record, "name", "categories") for record in categories]
    records = list(reader.records("images"))
    picture_of = reader.index(records, "images")
    sizes = [reader.size_wh(record) for record in records]
    rows: list[list[Any]] = [[] for _ in records]
    outlines: list[list[Outline | None]] = [[] for _ in records]
    for record in reader.records("annotations"):
        picture, class_id = record.get("image_id"), record.get("category_id")
        if not isinstance(picture, int) or picture not in picture_of:
            raise DatasetError(
                f"{annotations}: an annotation is for image_id {picture!r:.40}, which is not in `images`"
            )
        if not isinstance(class_id, int) or class_id not in class_of:
            raise DatasetError(f"{annotations}: an annotation has category_id {class_id!r:.40}, not in `categories`")
        x, y, w, h = reader.box(record)
        area = reader.number(record["area"], "an annotation's area") if "area" in record else w * h
        crowd = bool(record.get("iscrowd", 0))
        index = picture_of[picture]
        rows[index].append(((x, y, x + w, y + h), class_of[class_id], area, crowd, False))
        outlines[index].append(read_outline(record.get("segmentation"), sizes[index]))
    if not records:
        raise DatasetError(f"{annotations}: `images` is empty; there is nothing to evaluate on")
    paths = [_inside(images, reader.text(r, "file_name", "images")) for r in records]
    pictures = [Picture(path, size_wh) for path, size_wh in zip(paths, sizes, strict=True)]
    _check_present(pictures, images)
    return BoxDataset("coco", tuple(names), tuple(pictures), tuple(map(boxes, rows, outlines)))


class _Reader:
    """Typed access to parsed JSON from anywhere."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.data = json.loads(read_limited(path, _FILE_LIMIT_BYTES))
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{path} is not JSON, or is cut off: {error}") from error
        if not isinstance(self.data, dict):
            raise DatasetError(f"{path}: expected COCO's object with images, annotations, categories")

    def records(self, key: str) -> Iterator[dict[str, Any]]:
        records = self.data.get(key)
        if not isinstance(records, list):
            raise DatasetError(
                f"{self.path}: expected a list `{key}`, found the keys {sorted(self.data)[:10]}; "
                "give an annotation file in COCO's detection format"
            )
        for record in records:
            if not isinstance(record, dict):
                raise DatasetError(f"{self.path}: an entry of `{key}` is {record!r:.40}, expected an object")
            yield record

    def identity(self, record: dict[str, Any], key: str) -> int:
        value = record.get("id")
        if not isinstance(value, int):
            raise DatasetError(f"{self.path}: an entry of `{key}` has the id {value!r:.40}, expected a whole number")
        return value

    def index(self, records: list[dict[str, Any]], key: str) -> dict[int, int]:
        """id -> position."""
        index = {self.identity(record, key): i for i, record in enumerate(records)}
        if len(index) != len(records):
            raise DatasetError(f"{self.path}: `{key}` has {len(records)} entries but only {len(index)} different ids")
        return index

    def text(self, record: dict[str, Any], field: str, key: str) -> str:
        value = record.get(field)
        if not isinstance(value, str) or not value.isprintable() or not value:
            raise DatasetError(f"{self.path}: an entry of `{key}` has the {field} {value!r:.60}, expected plain text")
        return value

    def number(self, value: Any, what: str) -> float:
        try:
            number = math.nan if isinstance(value, (str, bool)) else float(value)
        except (TypeError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise DatasetError(f"{self.path}: {what} is {value!r:.40}, expected a finite number")
        return number

    def box(self, record: dict[str, Any]) -> tuple[float, float, float, float]:
        box = record.get("bbox")
        if not isinstance(box, list) or len(box) != 4:
            raise DatasetError(f"{self.path}: an annotation has the bbox {box!r:.60}, expected [x, y, width, height]")
        x, y, w, h = (self.number(value, "a number in a bbox") for value in box)
        if w < 0 or h < 0:
            raise DatasetError(f"{self.path}: an annotation has the bbox {box}, whose width or height is negative")
        return x, y, w, h

    def size_wh(self, record: dict[str, Any]) -> tuple[int, int] | None:
        if "width" not in record or "height" not in record:
            return None
        return int(self.number(record["width"], "a width")), int(self.number(record["height"], "a height"))


def _inside(folder: Path, name: str) -> Path:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        raise DatasetError(f"file_name {name!r:.80} leads outside the folder of pictures; expected a name within it")
    return folder.joinpath(*parts)


def _check_present(pictures: list[Picture], folder: Path) -> None:
    try:
        missing = [picture.path for picture in pictures if not picture.path.is_file()]
    except OSError as error:
        raise DatasetError(f"pictures in {folder} cannot be looked up: {error}") from error
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(pictures)} pictures are not in {folder}, the first is {missing[0]}; "
            "is IMAGES in coco:ANNOTATIONS.json:IMAGES the right folder?"
        )
