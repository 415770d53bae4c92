"""Pascal VOC XML: `voc:ROOT[:SPLIT]`. Format: the VOC development kit, Everingham et al., IJCV 88 (2010)."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

from edgevision.errors import DatasetError
from edgevision.evaluation.datasets import (
    BoxDataset,
    Picture,
    boxes,
    folder_files,
    pictures_by_stem,
    read_limited,
)
from edgevision.labels import BUILT_IN

_FILE_LIMIT_BYTES = 4 << 20
_XML = (".xml",)


def open_voc(root: Path, split: str | None = None) -> BoxDataset:
    """Read a VOC folder; classes are VOC's 20 where they cover all names, otherwise the names found, sorted.

    Args:
        root: a folder with Annotations/ and JPEGImages/ (such as VOCdevkit/VOC2012), or one in which exactly one
            folder (root itself counts) holds XML files and exactly one holds pictures.
        split: a list of `ImageSets/Main/`, without `.txt`; all annotations where None.

    Raises:
        DatasetError: the folder is laid out otherwise, a file is missing, or an XML file is not VOC's.
    """
    annotations, images = _layout(root)
    stems = [path.stem for path in folder_files(annotations, _XML)] if split is None else _split(root, split)
    if not stems:
        raise DatasetError(f"{root}: no annotations to evaluate on")
    pictures = pictures_by_stem(images, stems, "annotations")
    parsed = [_read(annotations / f"{stem}.xml") for stem in stems]
    names = {name for _, objects in parsed for name, *_ in objects}
    standard = BUILT_IN["voc21"][1:]
    classes = standard if names <= set(standard) else tuple(sorted(names))
    number = {name: i for i, name in enumerate(classes)}
    return BoxDataset(
        "voc",
        classes,
        tuple(Picture(path, size_wh) for path, (size_wh, _) in zip(pictures, parsed, strict=True)),
        tuple(
            boxes(
                (box, number[name], (box[2] - box[0]) * (box[3] - box[1]), False, hard) for name, box, hard in objects
            )
            for _, objects in parsed
        ),
    )


def _layout(root: Path) -> tuple[Path, Path]:
    annotations, images = root / "Annotations", root / "JPEGImages"
    if annotations.is_dir() and images.is_dir():
        return annotations, images
    try:
        folders = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    except (OSError, ValueError) as error:
        raise DatasetError(f"folder {root} cannot be read: {error}") from error
    labelled = [folder for folder in folders if folder_files(folder, _XML)]
    pictured = [folder for folder in folders if folder_files(folder)]
    if len(labelled) != 1 or len(pictured) != 1:
        raise DatasetError(
            f"{root} should hold Annotations/ and JPEGImages/, or exactly one folder of XML files and one of pictures; "
            f"XML files are in {[f.name for f in labelled]}, pictures in {[f.name for f in pictured]}"
        )
    return labelled[0], pictured[0]


def _split(root: Path, split: str) -> list[str]:
    lists = root / "ImageSets" / "Main"
    known = sorted(path.stem for path in lists.glob("*.txt"))
    if split not in known:
        raise DatasetError(f"no split {split!r} in {lists}; there are {known[:20]}")
    path = lists / f"{split}.txt"
    try:
        # The lists of one class have a second column, 1 or -1.
        stems = [line.split()[0] for line in read_limited(path, 64 << 20).decode().splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not text: {error}") from error
    strange = [stem for stem in stems if "/" in stem or "\0" in stem]
    if strange:
        raise DatasetError(f"{path} names {strange[0]!r:.60}; expected names of annotations, one per line")
    return stems


_Object = tuple[str, tuple[float, float, float, float], bool]


def _read(path: Path) -> tuple[tuple[int, int] | None, list[_Object]]:
    root = _parse(path)
    size = root.find("size")
    size_wh = None if size is None else (int(_number(size, "width", path)), int(_number(size, "height", path)))
    # Some labelling tools write 0 x 0 for "not known".
    return size_wh if size_wh and min(size_wh) > 0 else None, [_object(item, path) for item in root.iter("object")]


def _object(item: ElementTree.Element, path: Path) -> _Object:
    name = (item.findtext("name") or "").strip()
    frame = item.find("bndbox")
    if not name or not name.isprintable() or frame is None:
        raise DatasetError(f"{path}: an object has no <name> or no <bndbox>")
    x1, y1, x2, y2 = (_number(frame, key, path) for key in ("xmin", "ymin", "xmax", "ymax"))
    if x2 < x1 or y2 < y1:
        raise DatasetError(f"{path}: the box of {name!r} ends before it begins: {x1, y1, x2, y2}")
    # VOC counts pixels from 1 and includes the last; we measure from edge to edge.
    box = (max(x1 - 1, 0.0), max(y1 - 1, 0.0), x2, y2)
    return name, box, (item.findtext("difficult") or "0").strip() not in ("0", "")


def _number(parent: ElementTree.Element, key: str, path: Path) -> float:
    text = parent.findtext(key)
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DatasetError(f"{path}: <{key}> is {text!r:.40}, expected a number")
    return value


def _parse(path: Path) -> ElementTree.Element:
    """Parse without document types, which is where entities come from: no expansion, no outside files."""

    def refuse(*_: object) -> NoReturn:
        raise DatasetError(f"{path} declares a document type, which VOC files do not; remove the <!DOCTYPE ...>")

    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(read_limited(path, _FILE_LIMIT_BYTES), True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise DatasetError(f"{path} is not XML, or is cut off: {error}") from error
    root: ElementTree.Element = builder.close()
    if root.tag != "annotation":
        raise DatasetError(f"{path}: the outer element is <{root.tag:.40}>, expected VOC's <annotation>")
    return root
