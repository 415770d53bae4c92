"""Data sets by one line of text, as `--dataset` takes them."""

from __future__ import annotations

import re
from pathlib import Path

from edgevision.errors import UsageError
from edgevision.evaluation.coco import open_coco
from edgevision.evaluation.datasets import Dataset
from edgevision.evaluation.masks import open_masks
from edgevision.evaluation.voc import open_voc

SPEC_HELP = (
    r"coco:ANNOTATIONS.json:IMAGES, voc:ROOT[:SPLIT] or masks:IMAGES:MASKS[:CLASSES]; write a ':' in a path as '\:'"
)


def open_dataset(spec: str) -> Dataset:
    r"""Open a labelled data set.

    Args:
        spec: `coco:ANNOTATIONS.json:IMAGES`, `voc:ROOT[:SPLIT]` or `masks:IMAGES:MASKS[:CLASSES]`, where CLASSES is
            a labels file or a built-in list. A colon within a part is written `\:`.

    Raises:
        UsageError: `spec` is none of these.
        DatasetError: the data set cannot be read or contradicts itself.
    """
    kind, *parts = (part.replace("\\:", ":") for part in re.split(r"(?<!\\):", spec))
    match kind, parts:
        case "coco", [annotations, images] if all(parts):
            return open_coco(Path(annotations), Path(images))
        case "voc", [root, *split] if all(parts) and len(split) <= 1:
            return open_voc(Path(root), *split)
        case "masks", [images, masks, *classes] if all(parts) and len(classes) <= 1:
            return open_masks(Path(images), Path(masks), *classes)
    raise UsageError(f"data set {spec!r}: expected {SPEC_HELP}")
