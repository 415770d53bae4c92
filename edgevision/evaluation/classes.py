"""How a model's classes meet a data set's: by name; without names, by equal count in order; otherwise not at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgevision.errors import DatasetError

# VOC's names -> COCO's.
_ALIASES = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "television": "tv",
    "tvmonitor": "tv",
}


@dataclass(frozen=True)
class ClassMatch:
    """Which model class is which data set class.

    Attributes:
        to_dataset: (model classes,) int64: index of the data set's class, -1 where it has none.
        names: the data set's class names.
        judged: indices of the data set's classes that the model knows; only they enter the figures.
        warnings: what a reader of the figures should know.
    """

    to_dataset: NDArray[np.int64]
    names: tuple[str, ...]
    judged: tuple[int, ...]
    warnings: tuple[str, ...]


def match_classes(labels: Sequence[str], class_count: int, names: Sequence[str]) -> ClassMatch:
    """Match a model's `class_count` classes, called `labels` (may be empty), with a data set's `names` (may be empty).

    Case, spaces, `-` and `_` do not matter in names, and VOC's names equal COCO's (sofa = couch).

    Raises:
        DatasetError: nothing can be matched, or one name stands for two classes.
    """
    if not names:
        plain = tuple(labels) or tuple(str(i) for i in range(class_count))
        warning = "the data set has no class names: its values are taken as the model's class ids"
        return ClassMatch(np.arange(class_count), plain, tuple(range(class_count)), (warning,))
    if not labels:
        if class_count != len(names):
            raise DatasetError(
                f"the model has {class_count} classes without names, the data set {len(names)} "
                f"({', '.join(names[:5])}, ...): give the model names with edgevision export --labels"
            )
        warning = "the model has no class names: its classes were matched with the data set's in order"
        return ClassMatch(np.arange(class_count), tuple(names), tuple(range(class_count)), (warning,))
    ours, theirs = [_plain(name) for name in labels], [_plain(name) for name in names]
    common = set(ours) & set(theirs)
    for side, all_names in (("model", ours), ("data set", theirs)):
        twice = sorted(name for name in common if all_names.count(name) > 1)
        if twice:
            raise DatasetError(f"the {side} has two classes called {twice[0]!r}: rename one of them")
    if not common:
        raise DatasetError(
            f"no class of the model ({', '.join(labels[:5])}, ...) has the name of a class of the data set "
            f"({', '.join(names[:5])}, ...): give the data set's names with edgevision export --labels"
        )
    to_dataset = np.array([theirs.index(name) if name in common else -1 for name in ours], np.int64)
    unknown = [name for name, plain in zip(names, theirs, strict=True) if plain not in common]
    warnings = (f"{len(unknown)} classes the model does not know are left out: {', '.join(unknown[:20])}",)
    judged = tuple(sorted(to_dataset[to_dataset >= 0].tolist()))
    return ClassMatch(to_dataset, tuple(names), judged, warnings if unknown else ())


def _plain(name: str) -> str:
    plain = " ".join(re.split(r"[\s_-]+", name.strip().casefold()))
    return _ALIASES.get(plain, plain)
