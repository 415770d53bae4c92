"""What a labelled data set is: pictures with boxes, or pictures with a class for every pixel."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgevision.errors import DatasetError, SourceError
from edgevision.evaluation.outlines import Outline
from edgevision.optional import require
from edgevision.pictures import SUFFIXES, read_picture

IGNORE = 255
"""Mask value of pixels that are not judged."""


@dataclass(frozen=True)
class Picture:
    """A picture file; `size_wh` is what the labels say its size is, None where they do not."""

    path: Path
    size_wh: tuple[int, int] | None = None

    def read(self) -> NDArray[np.uint8]:
        """The picture, (h, w, 3) uint8 BGR.

        Raises:
            DatasetError: it cannot be decoded, or is not of the size that its labels were made for.
        """
        try:
            image = read_picture(self.path)
        except SourceError as error:
            raise DatasetError(f"{error}; replace the picture, or remove it and its labels") from error
        size_wh = image.shape[1], image.shape[0]
        if self.size_wh is None or self.size_wh == size_wh:
            return image
        if self.size_wh != size_wh[::-1]:
            raise DatasetError(
                f"picture {self.path} has {size_wh[0]}x{size_wh[1]} pixels, its labels are for a picture of "
                f"{self.size_wh[0]}x{self.size_wh[1]}; give the pictures that the labels were made on"
            )
        # The labels were made on the pixels as stored, before the camera's rotation mark.
        cv2 = require("cv2", "reading pictures")
        stored: NDArray[np.uint8] = cv2.imread(str(self.path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if stored.shape[1::-1] != self.size_wh:
            raise DatasetError(f"picture {self.path} lies on its side compared with its labels; turn it")
        return stored


@dataclass(frozen=True)
class BoxTruth:
    """The labelled boxes of one picture.

    Attributes:
        xyxy: (n, 4) float64, corners in continuous pixels.
        class_id: (n,) int64, index into the data set's classes.
        area: (n,) float64, pixels; of the object's outline where the data set gives it.
        crowd: (n,) bool: COCO's regions holding many objects; what is found inside is not judged.
        difficult: (n,) bool: VOC's objects that need not be found.
        outlines: of each object, None where the data set gives none; empty where it gives boxes only.
    """

    xyxy: NDArray[np.float64]
    class_id: NDArray[np.int64]
    area: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    difficult: NDArray[np.bool_]
    outlines: tuple[Outline | None, ...] = ()


@dataclass(frozen=True)
class BoxDataset:
    """Pictures with boxes; `truth[i]` belongs to `pictures[i]`.

    Attributes:
        kind: `coco` or `voc`.
        warnings: what a reader of the figures should know.
    """

    kind: str
    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    truth: tuple[BoxTruth, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class MaskDataset:
    """Pictures with class masks: PNG files whose values are class indices, IGNORE = not judged.

    Attributes:
        classes: names; empty where the data set gives none and its values are the model's own class ids.
    """

    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    masks: tuple[Path, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class PictureSet:
    """Pictures without labels: what a model does on them can be compared with what another one does, no more."""

    pictures: tuple[Picture, ...]
    warnings: tuple[str, ...] = ()


Dataset: TypeAlias = BoxDataset | MaskDataset


def open_images(folder: Path | str) -> PictureSet:
    """The pictures in a folder, by name.

    Raises:
        DatasetError: the folder cannot be read or holds none.
    """
    pictures = tuple(Picture(path) for path in folder_files(Path(folder)))
    if not pictures:
        raise DatasetError(f"folder {folder} holds no pictures ({', '.join(SUFFIXES)})")
    return PictureSet(pictures)


def boxes(
    rows: Iterable[tuple[tuple[float, float, float, float], int, float, bool, bool]],
    outlines: Iterable[Outline | None] = (),
) -> BoxTruth:
    """BoxTruth from rows of (xyxy, class_id, area, crowd, difficult), and the rows' outlines."""
    columns = list(zip(*rows, strict=True)) or [()] * 5
    return BoxTruth(
        np.array(columns[0], np.float64).reshape(-1, 4),
        np.array(columns[1], np.int64),
        np.array(columns[2], np.float64),
        np.array(columns[3], np.bool_),
        np.array(columns[4], np.bool_),
        tuple(outlines),
    )


def read_limited(path: Path, limit_bytes: int) -> bytes:
    """A whole file of at most `limit_bytes`.

    Raises:
        DatasetError: it cannot be read or is larger.
    """
    try:
        with path.open("rb") as handle:
            data = handle.read(limit_bytes + 1)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    if len(data) > limit_bytes:
        raise DatasetError(f"{path} is larger than {limit_bytes >> 20} MiB, the limit for such a file")
    return data


def folder_files(folder: Path, suffixes: Container[str] = SUFFIXES) -> list[Path]:
    """The files in `folder` with one of `suffixes` (lower case), by name.

    Raises:
        DatasetError: the folder does not exist or cannot be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    except (OSError, ValueError) as error:
        raise DatasetError(f"folder {folder} cannot be read: {error}") from error


def pictures_by_stem(folder: Path, stems: Iterable[str], labels: str) -> list[Path]:
    """For each label file's stem the picture of that stem in `folder`; `labels` says what has those stems.

    Raises:
        DatasetError: a picture is missing, or there are two of that stem.
    """
    found: dict[str, list[Path]] = {}
    for path in folder_files(folder):
        found.setdefault(path.stem, []).append(path)
    wanted = list(stems)
    missing = [stem for stem in wanted if stem not in found]
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(wanted)} {labels} have no picture of the same name in {folder}, "
            f"the first is {missing[0]!r}"
        )
    for stem in wanted:
        if len(found[stem]) > 1:
            raise DatasetError(f"{folder} holds {[p.name for p in found[stem]]}: which belongs to {stem!r}? Keep one")
    return [found[stem][0] for stem in wanted]
