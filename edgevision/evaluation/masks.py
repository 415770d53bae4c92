"""Class masks: `masks:IMAGES:MASKS[:CLASSES]`, PNG files whose stored values are class indices."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevision.errors import DatasetError
from edgevision.evaluation.datasets import MaskDataset, Picture, folder_files, pictures_by_stem, read_limited
from edgevision.labels import load_labels
from edgevision.optional import require

_FILE_LIMIT_BYTES = 256 << 20
_PIXEL_LIMIT = 1 << 28
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3


def open_masks(images: Path, masks: Path, classes: str | None = None) -> MaskDataset:
    """Pair the PNG files of `masks` with the pictures of the same name in `images`.

    Args:
        images: folder of pictures; those without a mask are left out, with a warning.
        masks: folder of masks.
        classes: class names in the order of the mask values: a labels file or a built-in list; None where the
            values are the model's own class ids.

    Raises:
        DatasetError: a folder is missing, there are no masks, or a mask has no picture.
        UsageError: `classes` is neither.
    """
    paths = folder_files(masks, (".png",))
    if not paths:
        raise DatasetError(f"{masks} holds no PNG masks; expected files whose values are class indices")
    pictures = pictures_by_stem(images, [path.stem for path in paths], "masks")
    unlabelled = len(folder_files(images)) - len(paths)
    return MaskDataset(
        load_labels(classes) if classes is not None else (),
        tuple(Picture(path) for path in pictures),
        tuple(paths),
        (f"{unlabelled} pictures without a mask are left out",) if unlabelled else (),
    )


def read_mask(path: Path) -> NDArray[Any]:
    """The stored values of a PNG with one channel, (h, w) uint8 or uint16; a palette's indices, not its colours.

    Raises:
        DatasetError: the file is not such a PNG.
    """
    cv2 = require("cv2", "reading masks")
    grey, depth = _as_grey(read_limited(path, _FILE_LIMIT_BYTES), path)
    mask = cv2.imdecode(np.frombuffer(grey, np.uint8), cv2.IMREAD_UNCHANGED)
    if mask is None or mask.ndim != 2:
        raise DatasetError(f"mask {path} cannot be decoded; is it damaged?")
    # The decoder stretches fewer than 8 bits to 0..255; undo that.
    values: NDArray[Any] = mask // (255 // (2**depth - 1)) if depth < 8 else mask
    return values


def _as_grey(data: bytes, path: Path) -> tuple[bytes, int]:
    """The same PNG declared as grey, so that a decoder returns palette indices as they are; and its bit depth.

    PNG specification (ISO/IEC 15948), section 11.2: both kinds store one sample per pixel.
    """
    if data[:8] != _SIGNATURE or data[12:16] != b"IHDR" or len(data) < 33:
        raise DatasetError(f"mask {path} is not a PNG file; masks must be stored without loss")
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    if colour not in (_GREY, _PALETTE):
        raise DatasetError(
            f"mask {path} has colours instead of class indices (PNG colour type {colour}); "
            "convert it to a one-channel PNG whose values are class indices"
        )
    if width * height > _PIXEL_LIMIT:
        raise DatasetError(f"mask {path} claims {width}x{height} pixels, the limit is {_PIXEL_LIMIT}")
    if colour == _GREY:
        return data, depth
    chunks = [_SIGNATURE]
    position = 8
    while position + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        chunk = data[position : position + 12 + length]
        if kind == b"IHDR":
            body = kind + chunk[8:17] + bytes([_GREY]) + chunk[18:21]
            chunk = chunk[:4] + body + struct.pack(">I", zlib.crc32(body))
        if kind not in (b"PLTE", b"tRNS", b"bKGD", b"hIST"):
            chunks.append(chunk)
        position += 12 + length
    return b"".join(chunks), depth
