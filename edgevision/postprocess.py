"""From a graph's normal-form outputs to results in source pixels: one class per task.

| task | outputs |
|---|---|
| detection | `boxes` float32 [1, n, 4] corners in input pixels, `scores` float32 [1, n, c] in 0..1 |
| detection without duplicates | `boxes`, `scores` float32 [1, n], `class_ids` int32 [1, n] (suppression: none) |
| keypoints | detection's, and `keypoints` float32 [1, n, p, 2 or 3] in input pixels (third: confidence) |
| instance | detection's, `mask_coefficients` float32 [1, n, m] and `mask_prototypes` float32 [1, m, h, w]; or \
`box_masks` float32 [1, n, s, s] in 0..1, each spread over its box; or `mask_kernels` float32 [1, n, 173] and \
`mask_features` float32 [1, 8, h, w], see kernels/cpu_masks.py |
| classification | `scores` float32 [1, c] in 0..1; with localisation also `boxes` float32 [1, 1, 4] |
| semantic | `class_map` uint8 or int32 [1, h, w], or `logits` float32 [1, c, h, w] |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgevision.backends.base import TensorSpec
from edgevision.errors import BundleError, UsageError
from edgevision.geometry import Placement
from edgevision.kernels.cpu import FEATURES, KERNELS, ClassMapper, assemble, convolve, keep, paste
from edgevision.manifest import Manifest, Nms
from edgevision.results import Classification, Detections, Result, SegmentationMap


class Postprocess(Protocol):
    """Turns the outputs of one run into a result. Has scratch memory: one instance per worker."""

    def __call__(self, outputs: Mapping[str, NDArray[Any]], placement: Placement) -> Result: ...


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which detections are wanted.

    Attributes:
        nms: the manifest's, with the caller's overrides.
        thresholds: (c,) float32, least confidence per class; infinity leaves a class out.
    """

    nms: Nms
    thresholds: NDArray[np.float32]


def select(
    manifest: Manifest,
    confidence: float | Mapping[str | int, float] | None = None,
    iou: float | None = None,
    classes: Sequence[str | int] | None = None,
    max_detections: int | None = None,
) -> Selection | None:
    """Join the manifest's settings and the caller's overrides (None: the manifest's); None for tasks without NMS.

    Args:
        manifest: of the bundle.
        confidence: one least confidence in 0..1, or one per class by name or number (others: the manifest's).
        iou: NMS threshold in 0..1.
        classes: names or numbers of the classes wanted.
        max_detections: boxes per picture, at least 1.

    Raises:
        UsageError: a value is out of range, a class is unknown, or the task takes no such setting.
    """
    overrides = {"confidence": confidence, "iou": iou, "classes": classes, "max_detections": max_detections}
    given = [name for name, value in overrides.items() if value is not None]
    if manifest.nms is None:
        if given:
            raise UsageError(f"{given} cannot be set: {manifest.name} does {manifest.task}, which reports no boxes")
        return None
    by_class = dict(confidence) if isinstance(confidence, Mapping) else {}
    for name, value in [("iou", iou), *(("confidence", c) for c in (by_class.values() if by_class else [confidence]))]:
        if value is not None and not (isinstance(value, (int, float)) and 0 <= value <= 1):
            raise UsageError(f"{name} is a number in 0..1, got {value!r}")
    if max_detections is not None and not (isinstance(max_detections, int) and 1 <= max_detections <= 100_000):
        raise UsageError(f"max_detections is a whole number in 1..100000, got {max_detections!r}")
    nms = manifest.nms
    nms = dataclasses.replace(
        nms,
        confidence=confidence if isinstance(confidence, (int, float)) else nms.confidence,
        iou_threshold=nms.iou_threshold if iou is None else iou,
        max_detections=nms.max_detections if max_detections is None else max_detections,
    )
    thresholds = np.full(len(manifest.labels), nms.confidence, np.float32)
    for label, value in by_class.items():
        thresholds[class_ids(manifest.labels, [label])] = value
    if classes is not None:
        unwanted = np.ones(len(thresholds), bool)
        unwanted[class_ids(manifest.labels, classes)] = False
        thresholds[unwanted] = np.inf
    return Selection(nms, thresholds)


def class_ids(labels: Sequence[str], wanted: Sequence[str | int]) -> list[int]:
    """Numbers of classes given by name (every class of that name) or number.

    Raises:
        UsageError: there is no such class.
    """
    if isinstance(wanted, str):
        wanted = [wanted]
    if not wanted:
        raise UsageError("the list of classes names no class; leave it out to get all")
    chosen: list[int] = []
    for item in wanted:
        if isinstance(item, str):
            found = [i for i, label in enumerate(labels) if label == item]
        else:
            found = [int(item)] if 0 <= item < len(labels) else []
        if not found:
            known = ", ".join(labels[:100])
            raise UsageError(f"the model has no class {item!r}; it has 0..{len(labels) - 1}: {known}")
        chosen += found
    return chosen


class DetectionPostprocess:
    """Boxes that stay, back in source pixels, with what belongs to them."""

    def __init__(self, manifest: Manifest, outputs: Sequence[TensorSpec], selection: Selection) -> None:
        """Raises BundleError: the graph's outputs are not the normal form."""
        classes = len(manifest.labels)
        found = {spec.name: spec for spec in outputs}
        self._final = selection.nms.suppression == "none"
        self._has_keypoints = manifest.task == "keypoints"
        self._masks = mask_form(manifest, found)
        rows = found["boxes"].shape[1] if "boxes" in found and len(found["boxes"].shape) == 3 else 0
        wanted: dict[str, tuple[str, tuple[int, ...]]] = {"boxes": ("float32", (1, rows, 4))}
        if self._final:
            wanted |= {"scores": ("float32", (1, rows)), "class_ids": ("int32", (1, rows))}
            words = "boxes float32 [1, n, 4], scores float32 [1, n] and class_ids int32 [1, n]"
        else:
            wanted["scores"] = ("float32", (1, rows, classes))
            words = f"boxes float32 [1, n, 4] and scores float32 [1, n, {classes}] (one column per label)"
        if self._masks == "prototypes":
            prototypes = found["mask_prototypes"].shape if "mask_prototypes" in found else ()
            masks = prototypes[1] if len(prototypes) == 4 else 0
            wanted["mask_coefficients"] = ("float32", (1, rows, masks))
            wanted["mask_prototypes"] = ("float32", (1, masks, *prototypes[2:]))
            words += ", mask_coefficients float32 [1, n, m] and mask_prototypes float32 [1, m, h, w]"
        if self._masks == "kernels":
            features = found["mask_features"].shape if "mask_features" in found else ()
            wanted["mask_kernels"] = ("float32", (1, rows, KERNELS))
            wanted["mask_features"] = ("float32", (1, FEATURES, *features[2:]))
            words += f", mask_kernels float32 [1, n, {KERNELS}] and mask_features float32 [1, {FEATURES}, h, w]"
        if self._masks == "boxes":
            side = found["box_masks"].shape[-1]
            wanted["box_masks"] = ("float32", (1, rows, side, side))
            words += ", box_masks float32 [1, n, s, s]"
        if self._has_keypoints:
            points = found["keypoints"].shape if "keypoints" in found else ()
            wide = len(points) == 4 and points[2] > 0 and points[3] in (2, 3)
            wanted["keypoints"] = ("float32", (1, rows, *points[2:]) if wide else ())
            words += " and keypoints float32 [1, n, p, 2 or 3]"
        got = {name: (found[name].dtype, found[name].shape) for name in wanted if name in found}
        _expect(rows > 0 and got == wanted, outputs, words)
        self._names, self._selection = manifest.labels, selection

    def __call__(self, outputs: Mapping[str, NDArray[Any]], placement: Placement) -> Detections:
        boxes = outputs["boxes"][0]
        class_ids = outputs["class_ids"][0] if self._final else None
        rows, confidence, class_id = keep(
            boxes, outputs["scores"][0], self._selection.nms, self._selection.thresholds, class_ids
        )
        xyxy = placement.to_source(boxes[rows])
        inside = (xyxy[:, 2:] > xyxy[:, :2]).all(axis=1)
        if not inside.all():  # a box in the padding only
            rows, xyxy, confidence, class_id = rows[inside], xyxy[inside], confidence[inside], class_id[inside]
        found = Detections(xyxy, confidence, class_id, self._names)
        if self._has_keypoints:
            found.keypoints = source_keypoints(outputs["keypoints"][0][rows], placement)
        if self._masks == "prototypes":
            prototypes, coefficients = outputs["mask_prototypes"][0], outputs["mask_coefficients"][0][rows]
            found.mask = assemble(prototypes, coefficients, xyxy, placement, placement.source_wh)
        if self._masks == "kernels":
            features, kernels = outputs["mask_features"][0], outputs["mask_kernels"][0][rows]
            found.mask = convolve(features, kernels, xyxy, placement, placement.source_wh)
        if self._masks == "boxes":
            whole = placement.points_to_source(boxes[rows].reshape(-1, 2, 2)).reshape(-1, 4)  # not clipped, as the map
            found.mask = paste(outputs["box_masks"][0][rows], whole, placement.source_wh)
        return found


def mask_form(manifest: Manifest, outputs: Container[str]) -> str | None:
    """How masks come: `boxes`: one small map per box; `kernels`: a small network per box; else `prototypes` and
    coefficients. None for tasks without masks."""
    if manifest.task != "instance":
        return None
    return "boxes" if "box_masks" in outputs else "kernels" if "mask_kernels" in outputs else "prototypes"


def source_keypoints(points: NDArray[np.float32], placement: Placement) -> NDArray[np.float32]:
    """(n, p, 3): points of (n, p, 2 or 3) in source pixels, with their confidence or 1."""
    full = np.ones((*points.shape[:2], 3), np.float32)
    full[..., : points.shape[2]] = points
    full[..., :2] = placement.points_to_source(points[..., :2])
    return full


class ClassificationPostprocess:
    """Scores as they are; the one box, where there is one, in source pixels."""

    def __init__(self, manifest: Manifest, outputs: Sequence[TensorSpec]) -> None:
        """Raises BundleError: the graph's outputs are not the normal form."""
        classes = len(manifest.labels)
        found = {spec.name: (spec.dtype, spec.shape) for spec in outputs}
        scores, boxes = ("float32", (1, classes)), ("float32", (1, 1, 4))
        _expect(
            found in ({"scores": scores}, {"scores": scores, "boxes": boxes}),
            outputs,
            f"scores float32 [1, {classes}] (one per label), and boxes float32 [1, 1, 4] where it localises",
        )
        self._names = manifest.labels

    def __call__(self, outputs: Mapping[str, NDArray[Any]], placement: Placement) -> Classification:
        xyxy = placement.to_source(outputs["boxes"][0])[0] if "boxes" in outputs else None
        return Classification(outputs["scores"][0].copy(), self._names, xyxy)


class SemanticPostprocess:
    """Argmax where the graph leaves it to us, and the class map at source size."""

    def __init__(self, manifest: Manifest, outputs: Sequence[TensorSpec]) -> None:
        """Raises BundleError: the graph's outputs are not the normal form."""
        self._names = manifest.labels
        self._has_map = has_class_map(manifest, outputs)
        self._mapper = ClassMapper(manifest.preprocess.input_wh, len(manifest.labels))

    def __call__(self, outputs: Mapping[str, NDArray[Any]], placement: Placement) -> SegmentationMap:
        classes = outputs["class_map"][0] if self._has_map else self._mapper.argmax(outputs["logits"][0])
        return SegmentationMap(self._mapper.to_source(classes, placement), self._names)


def has_class_map(manifest: Manifest, outputs: Sequence[TensorSpec]) -> bool:
    """Whether a semantic graph gives a class map; otherwise it gives logits.

    Raises:
        BundleError: the graph's outputs are not the normal form.
    """
    classes = len(manifest.labels)
    found = {spec.name: spec for spec in outputs}
    class_map, logits = found.get("class_map"), found.get("logits")
    _expect(
        (class_map is not None and class_map.dtype in ("uint8", "int32") and _is_one(class_map.shape, 3))
        or (
            logits is not None and logits.dtype == "float32" and _is_one(logits.shape, 4) and logits.shape[1] == classes
        ),
        outputs,
        f"class_map uint8 or int32 [1, h, w], or logits float32 [1, {classes}, h, w] (one plane per label)",
    )
    return class_map is not None


def open_postprocess(manifest: Manifest, outputs: Sequence[TensorSpec], selection: Selection | None) -> Postprocess:
    """The postprocess of a bundle's task.

    Raises:
        BundleError: the graph's outputs are not the task's normal form.
    """
    if selection is not None:
        return DetectionPostprocess(manifest, outputs, selection)
    if manifest.task == "classification":
        return ClassificationPostprocess(manifest, outputs)
    return SemanticPostprocess(manifest, outputs)


def _is_one(shape: tuple[int, ...], rank: int) -> bool:
    return len(shape) == rank and shape[0] == 1 and min(shape) > 0


def _expect(fits: bool, outputs: Sequence[TensorSpec], wanted: str) -> None:
    if not fits:
        got = ", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in outputs)
        raise BundleError(f"the graph's outputs are not in normal form: expected {wanted}, got {got}; export it again")
