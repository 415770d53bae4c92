"""What a model says about one picture: structs of arrays in source pixels, shapes checked at construction.

Field names follow supervision's `Detections`, so results pass to its annotators and trackers unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray


def _check(name: str, array: NDArray[Any], shape: tuple[int | None, ...]) -> None:
    if array.ndim != len(shape) or any(e is not None and e != a for e, a in zip(shape, array.shape, strict=True)):
        wanted = "(" + ", ".join("n" if e is None else str(e) for e in shape) + (",)" if len(shape) == 1 else ")")
        raise ValueError(f"{name} has shape {array.shape}, expected {wanted}")


@dataclass(eq=False)
class Detections:
    """Boxes found in one picture, best first.

    Attributes:
        xyxy: (n, 4) float32, corners in pixels of the source picture.
        confidence: (n,) float32 in 0..1.
        class_id: (n,) int64, index into `names`.
        names: the model's class names.
        mask: (n, h, w) bool at source size, or None.
        tracker_id: (n,) int64, or None.
        keypoints: (n, p, 3) float32: x, y in pixels of the source picture (they may lie outside it) and a confidence
            in 0..1, which is 1 where the model gives none; or None.
        data: further arrays of length n, by name.
    """

    xyxy: NDArray[np.float32]
    confidence: NDArray[np.float32]
    class_id: NDArray[np.int64]
    names: tuple[str, ...] = ()
    mask: NDArray[np.bool_] | None = None
    tracker_id: NDArray[np.int64] | None = None
    data: dict[str, NDArray[Any]] = field(default_factory=dict)
    keypoints: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        n = len(self.xyxy)
        _check("xyxy", self.xyxy, (n, 4))
        _check("confidence", self.confidence, (n,))
        _check("class_id", self.class_id, (n,))
        if self.mask is not None:
            _check("mask", self.mask, (n, None, None))
        if self.tracker_id is not None:
            _check("tracker_id", self.tracker_id, (n,))
        if self.keypoints is not None:
            _check("keypoints", self.keypoints, (n, None, 3))
        for key, array in self.data.items():
            if len(array) != n:
                raise ValueError(f"data[{key!r}] has length {len(array)}, expected {n}")

    @classmethod
    def empty(cls, names: tuple[str, ...] = ()) -> Detections:
        """No boxes."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), names)

    def __len__(self) -> int:
        return len(self.xyxy)

    def __getitem__(self, index: slice | NDArray[Any] | list[int] | int) -> Detections:
        """Select by slice, boolean mask, index array or single index; always returns Detections."""
        chosen: Any = [index] if isinstance(index, (int, np.integer)) else index
        return Detections(
            self.xyxy[chosen],
            self.confidence[chosen],
            self.class_id[chosen],
            self.names,
            None if self.mask is None else self.mask[chosen],
            None if self.tracker_id is None else self.tracker_id[chosen],
            {key: array[chosen] for key, array in self.data.items()},
            None if self.keypoints is None else self.keypoints[chosen],
        )

    def __iter__(self) -> Iterator[Detections]:
        return (self[i] for i in range(len(self)))

    def name(self, index: int) -> str:
        """Class name of box `index`; the number as text where the model has no names."""
        class_id = int(self.class_id[index])
        return self.names[class_id] if class_id < len(self.names) else str(class_id)


@dataclass(eq=False)
class SegmentationMap:
    """A class for every pixel of one picture.

    Attributes:
        class_map: (h, w) uint8 (int32 above 255 classes) at source size, index into `names`.
        names: the model's class names.
    """

    class_map: NDArray[Any]
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check("class_map", self.class_map, (None, None))

    def mask(self, class_id: int) -> NDArray[np.bool_]:
        """(h, w) bool: the pixels of one class."""
        chosen: NDArray[np.bool_] = self.class_map == class_id
        return chosen

    def fractions(self) -> dict[str, float]:
        """Share of the picture per class present, largest first."""
        counts = np.bincount(self.class_map.ravel())
        order = np.argsort(counts, kind="stable")[::-1]
        label = [self.names[i] if i < len(self.names) else str(i) for i in range(len(counts))]
        return {label[i]: float(counts[i] / self.class_map.size) for i in order if counts[i]}


@dataclass(eq=False)
class Classification:
    """What one picture shows, and where, if the model says so.

    Attributes:
        scores: (c,) float32 in 0..1, index into `names`.
        names: the model's class names.
        xyxy: (4,) float32, corners of the one object in pixels of the source picture; None where the model gives none.
    """

    scores: NDArray[np.float32]
    names: tuple[str, ...] = ()
    xyxy: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        _check("scores", self.scores, (None,))
        if self.xyxy is not None:
            _check("xyxy", self.xyxy, (4,))

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The `count` classes with the highest scores, best first; equal ones by number."""
        best = np.argsort(-self.scores, kind="stable")[:count].tolist()
        return [(self.names[i] if i < len(self.names) else str(i), float(self.scores[i])) for i in best]


Result: TypeAlias = Detections | SegmentationMap | Classification
