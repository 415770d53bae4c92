"""The evaluation run: every picture of a data set through a bundle, one single-threaded lane per core."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgevision.bundle import Bundle
from edgevision.errors import DatasetError, UsageError
from edgevision.evaluation.boxes import Found, coco_metrics, mask_metrics, voc_average_precision
from edgevision.evaluation.classes import ClassMatch, match_classes
from edgevision.evaluation.datasets import BoxDataset, Dataset, MaskDataset
from edgevision.evaluation.masks import read_mask
from edgevision.evaluation.outlines import encode_masks
from edgevision.evaluation.pixels import confusion, pixel_metrics
from edgevision.manifest import Manifest, Preprocess
from edgevision.model import Model
from edgevision.optional import require
from edgevision.progress import Progress
from edgevision.results import Detections, Result, SegmentationMap

CONFIDENCE_FLOOR = 0.01
"""Least confidence of the boxes that enter average precision."""
_BOXES_ONLY = (
    "masks are not judged: {} of the labelled objects have no outline; give annotations with a `segmentation` each and "
    "the pictures' sizes"
)
_UINT8_GAIN = 12 / 11  # of uniform noise in -0.5..0.5: rounded, its variance is 1/12, as it was
_KEYS = (
    *("map_50_95", "map_50", "mask_map_50_95", "mask_map_50", "miou", "pixel_accuracy"),
    *("recall_at_threshold", "precision_at_threshold", "per_class"),
)


def evaluate(
    bundle: Bundle | Path | str,
    dataset: Dataset,
    *,
    backend: str = "cpu",
    device: int = 0,
    precision: str | None = None,
    graph: str = "auto",
    repeats: int = 1,
    confidence: float | None = None,
    limit: int | None = None,
    quiet: bool = True,
) -> dict[str, Any]:
    """How good a bundle is on a data set.

    Boxes are found as in use (the bundle's NMS), but down to a confidence of CONFIDENCE_FLOOR.

    Args:
        bundle: the bundle or its path.
        dataset: from `open_dataset`; boxes for a detector, with outlines for one with masks; class masks for a
            segmenter.
        backend, device: what runs it; see `edgevision.load`. Repeats need the CPU.
        precision, graph: which graph runs; see `edgevision.load`.
        repeats: with more than 1, that many runs with the input dithered by up to half a grey level, the same noise
            for every bundle and graph: figures are means, with their standard errors. A single run on few pictures
            cannot judge tenths of a point.
        confidence: at which recall and precision are reported; None: the bundle's own threshold.
        limit: use the first pictures only.
        quiet: no progress.

    Returns:
        `bundle`, `graph`, `precision`, `model` (what ran it, see Model.facts), `images`; `map_50_95`, `map_50`,
        `mask_map_50_95`, `mask_map_50`, `recall_at_threshold`, `precision_at_threshold` or `miou`, `pixel_accuracy`
        (None where they do not apply; 0..1); `per_class`; `threshold`; `voc_ap_50` on VOC data; with repeats
        `standard_error` and `runs` (the figures of each); `warnings`.

    Raises:
        DatasetError: the data set does not fit the model, or a picture or mask cannot be read.
        UsageError: an option is out of range.
        BundleError, SessionError: the bundle cannot be used.
    """
    bundle = bundle if isinstance(bundle, Bundle) else Bundle(bundle)
    manifest = bundle.manifest
    if repeats < 1 or (limit is not None and limit < 1) or not 0 <= (confidence or 0) <= 1:
        raise UsageError(
            f"repeats and limit are at least 1 and confidence is in 0..1, got {repeats}, {limit}, {confidence}"
        )
    _check_task(manifest, dataset)
    match = match_classes(_names(manifest), len(manifest.labels), dataset.classes)
    count = min(len(dataset.pictures), limit or len(dataset.pictures))
    threshold = None
    if manifest.nms is not None:
        threshold = manifest.nms.confidence if confidence is None else confidence
    instance, without = manifest.task == "instance", _without_outline(dataset, count)
    floor = None if threshold is None else min(CONFIDENCE_FLOOR, threshold)
    with Model(
        bundle,
        backend="cpu" if backend == "auto" and repeats > 1 else backend,
        device=device,
        precision=precision,
        graph=graph,
        threads=1,
        confidence=floor,
        quiet=quiet,
    ) as model:
        label = f"evaluating {manifest.name}, {model.graph_name}"
        spec = manifest.preprocess_of(model.graph_name)
        runs = []
        with Progress(label, count * repeats, quiet=quiet) as progress:
            for run in range(repeats):
                dither = Dither(spec, run) if repeats > 1 else None
                score = _score(dataset, match, count, threshold, instance and not without)
                _each_picture(model, dataset, count, score, dither, progress)
                runs.append(score.metrics())
        facts = model.facts()
    return {
        "bundle": manifest.name,
        "graph": facts["graph"],
        "precision": facts["precision"],
        "model": facts,
        "images": count,
        **dict.fromkeys(_KEYS),
        "threshold": threshold,
        **_average(runs),
        **(_spread(runs) if repeats > 1 else {}),
        "warnings": [
            *dataset.warnings,
            *match.warnings,
            *([_BOXES_ONLY.format(without)] if instance and without else []),
        ],
    }


class Dither:
    """Uniform noise of up to half a grey level on the network's input, a function of run and picture number only: all
    graphs of a bundle see the same, whatever form their input has.

    An input of whole levels has no room for it. There the noise, a little enlarged, is rounded: one value of twelve
    moves by a level, which is the same variance.
    """

    def __init__(self, spec: Preprocess, run: int) -> None:
        self._spec, self._run = spec, run
        self._levels = (1 / np.array(spec.std, np.float32))[:, None, None]

    def __call__(self, tensor: NDArray[Any], picture: int) -> NDArray[Any]:
        """`tensor` with noise, a new array."""
        width, height = self._spec.input_wh
        random = np.random.default_rng([self._run, picture])
        noise: NDArray[Any] = random.random((3, height, width), np.float32) - np.float32(0.5)  # red, green, blue
        if self._spec.color == "bgr":
            noise = noise[::-1]
        whole = self._spec.dtype == "uint8"
        noise = np.rint(noise * np.float32(_UINT8_GAIN)) if whole else noise * self._levels
        if self._spec.layout == "nhwc":
            noise = noise.transpose(1, 2, 0)
        moved: NDArray[Any] = np.ascontiguousarray(noise) + tensor
        return moved.clip(0, 255).astype(np.uint8) if whole else moved


class _Score(Protocol):
    def add(self, index: int, result: Result) -> None:
        """Take one picture's result; called from several threads, once per picture."""
        ...

    def metrics(self) -> dict[str, Any]: ...


class _BoxScore:
    def __init__(self, dataset: BoxDataset, match: ClassMatch, count: int, threshold: float, masks: bool) -> None:
        require("pycocotools.cocoeval", "COCO average precision")  # now, not after the last picture
        self._kind, self._truth, self._masks = dataset.kind, dataset.truth[:count], masks
        self._match, self._threshold = match, threshold
        self._found: dict[int, Found] = {}

    def add(self, index: int, result: Result) -> None:
        assert isinstance(result, Detections)
        class_id = self._match.to_dataset[result.class_id]
        known = class_id >= 0
        masks: list[dict[str, Any]] = []
        if self._masks:
            assert result.mask is not None
            masks = encode_masks(result.mask[known])
        self._found[index] = Found(result.xyxy[known], result.confidence[known], class_id[known], masks)

    def metrics(self) -> dict[str, Any]:
        found = [self._found[i] for i in range(len(self._truth))]
        match = self._match
        metrics = coco_metrics(self._truth, found, match.names, match.judged, self._threshold)
        if self._masks:
            metrics |= mask_metrics(self._truth, found, match.judged)
        if self._kind == "voc":
            precisions = [voc_average_precision(self._truth, found, index) for index in match.judged]
            metrics["voc_ap_50"] = float(np.nanmean(precisions))
        return metrics


class _PixelScore:
    def __init__(self, dataset: MaskDataset, match: ClassMatch) -> None:
        self._masks, self._match = dataset.masks, match
        self._matrix = np.zeros((len(match.names), len(match.names) + 1), np.int64)
        self._lock = threading.Lock()

    def add(self, index: int, result: Result) -> None:
        assert isinstance(result, SegmentationMap)
        try:
            counts = confusion(read_mask(self._masks[index]), result.class_map, self._match)
        except DatasetError as error:
            raise DatasetError(f"{self._masks[index].name}: {error}") from error
        with self._lock:
            self._matrix += counts

    def metrics(self) -> dict[str, Any]:
        return pixel_metrics(self._matrix, self._match.names, self._match.judged)


def _score(dataset: Dataset, match: ClassMatch, count: int, threshold: float | None, masks: bool) -> _Score:
    if isinstance(dataset, MaskDataset):
        return _PixelScore(dataset, match)
    assert threshold is not None
    return _BoxScore(dataset, match, count, threshold, masks)


def _without_outline(dataset: Dataset, count: int) -> int:
    """How many of the first pictures' objects have none that masks could be compared with."""
    if isinstance(dataset, MaskDataset):
        return 0
    return sum(len(t.xyxy) - sum(outline is not None for outline in t.outlines) for t in dataset.truth[:count])


def _each_picture(
    model: Model, dataset: Dataset, count: int, score: _Score, dither: Dither | None, progress: Progress
) -> None:
    numbers = iter(range(count))
    lock, stop = threading.Lock(), threading.Event()

    def work() -> None:
        lane = model.open_lane()
        try:
            while not stop.is_set():
                with lock:
                    index = next(numbers, None)
                if index is None:
                    return
                lane.perturb = None if dither is None else _bound(dither, index)
                score.add(index, lane(dataset.pictures[index].read()))
                with lock:
                    progress.update()
        finally:
            lane.close()

    lanes = min(model.lanes(), count)
    with ThreadPoolExecutor(lanes, "evaluate") as pool:
        futures = [pool.submit(work) for _ in range(lanes)]
        try:
            for future in futures:
                future.result()
        finally:  # after an error or Ctrl-C the others finish the picture they are at
            stop.set()


def _bound(dither: Dither, picture: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
    return lambda tensor: dither(tensor, picture)


def _names(manifest: Manifest) -> tuple[str, ...]:
    """The class names; none where they are but the class numbers."""
    return () if manifest.labels == tuple(map(str, range(len(manifest.labels)))) else manifest.labels


def _check_task(manifest: Manifest, dataset: Dataset) -> None:
    if manifest.task == "classification":
        raise DatasetError(f"{manifest.name} does classification, for which there is no measure yet")
    boxes, masks = (BoxDataset, "boxes: coco: or voc:"), (MaskDataset, "class masks: masks:")
    kind, wanted = boxes if manifest.nms is not None else masks
    if not isinstance(dataset, kind):
        raise DatasetError(f"{manifest.name} does {manifest.task}; give a data set with {wanted}")


def _average(runs: list[Any]) -> Any:
    first = runs[0]
    if isinstance(first, dict):
        return {key: _average([run[key] for run in runs]) for key in first}
    if isinstance(first, int) or None in runs:
        return first if isinstance(first, int) else None
    return float(np.mean(runs))


def _spread(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of each run, and the standard errors of their means."""
    figures = [key for key, value in runs[0].items() if isinstance(value, float)]
    table = {key: [run[key] for run in runs] for key in figures if None not in [run[key] for run in runs]}
    return {
        "standard_error": {key: standard_error(values) for key, values in table.items()},
        "runs": [{key: table[key][i] for key in table} for i in range(len(runs))],
    }


def standard_error(values: list[float]) -> float:
    """Standard error of the mean of at least two values."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))
