"""What a graph loses against the float one: points of the task's metric, or of agreement where there are no labels."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevision.bundle import write_bundle
from edgevision.calibration import CalibrationImages
from edgevision.errors import DatasetError
from edgevision.export.findings import Figures
from edgevision.export.preparation import PreparedModel
from edgevision.manifest import GraphInfo

if TYPE_CHECKING:
    from edgevision.evaluation import Dataset, PictureSet

# Of a set without labels: enough boxes, and quick.
_UNLABELLED = 64
# Per task: which figure of agreement stands for the metric.
_AGREEMENT = {"semantic": "mask_iou", "classification": "top1_same"}
_BOXES = "matched_around"


@dataclass(frozen=True)
class Goal:
    """What a graph may lose.

    Attributes:
        max_drop: points (hundredths) of the metric.
        max_score_shift: by how much the mean score of matched boxes may move.
        min_recall: share of the float model's recall at the bundle's threshold that must remain.
    """

    max_drop: float
    max_score_shift: float
    min_recall: float


@dataclass(frozen=True)
class Loss:
    """The mean of several dithered runs.

    Attributes:
        reference, value: the metric of the float graph and of this one, 0..1.
        drop_points: their difference in hundredths.
        score_shift: see Goal; None for tasks without scores.
        recall: this graph's recall as a share of the float one's; None without labels or objects found.
        standard_error, shift_error, recall_error: of these three; None for one run.
        seeds: of the runs.
    """

    reference: float
    value: float
    drop_points: float
    standard_error: float | None
    score_shift: float | None
    shift_error: float | None
    recall: float | None
    recall_error: float | None
    seeds: tuple[int, ...]

    def miss(self, goal: Goal, errors: float = 0.0) -> str:
        """Why this is too much, in words; empty where it is not.

        Args:
            errors: by how many of its standard errors each figure may lie beyond its bound.
        """
        found = []
        if self.drop_points > goal.max_drop + errors * (self.standard_error or 0.0):
            found.append(f"{self.drop_points:.2f} points lost, at most {goal.max_drop:g} allowed")
        shift, recall = self.score_shift, self.recall
        if shift is not None and abs(shift) > goal.max_score_shift + errors * (self.shift_error or 0.0):
            found.append(f"scores shifted by {shift:+.3f}, at most {goal.max_score_shift:g} allowed")
        if recall is not None and recall < goal.min_recall - errors * (self.recall_error or 0.0):
            found.append(f"{recall:.1%} of float's recall left, at least {goal.min_recall:.0%} wanted")
        return "; ".join(found)


def loss_of(runs: Sequence[Figures], seeds: Sequence[int]) -> Loss:
    """The mean of what `Yardstick.run` returned."""

    def mean(name: str) -> float:
        return float(np.mean([run[name] or 0.0 for run in runs]))

    reference, value = mean("reference"), mean("value")
    drops = [100 * ((run["reference"] or 0.0) - (run["value"] or 0.0)) for run in runs]
    shifts = [shift for run in runs if (shift := run["score_shift"]) is not None]
    shares = [run["recall"] / before for run in runs if run["recall"] is not None and (before := run["float_recall"])]
    return Loss(
        reference,
        value,
        float(np.mean(drops)),
        _error(drops),
        float(np.mean(shifts)) if shifts else None,
        _error(shifts),
        float(np.mean(shares)) if shares else None,
        _error(shares),
        tuple(seeds),
    )


def _error(values: Sequence[float]) -> float | None:
    """Standard error of their mean."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


class Yardstick:
    """Measures graphs of one model on one set of pictures, on which the float graph runs once for each seed.

    Attributes:
        metric: the figure that is judged; `agreement` without labels.
        words: what is measured on what, for reports.
        count: number of pictures.
    """

    def __init__(self, prepared: PreparedModel, dataset: Dataset | None, images: CalibrationImages | None) -> None:
        """
        Args:
            dataset: labelled; None: the calibration pictures `images` without labels.

        Raises:
            DatasetError: none of the pictures can be read.
        """
        from edgevision.evaluation import Recording

        self._prepared, self._dataset = prepared, dataset
        self._recording = Recording()
        self._agreement = _AGREEMENT.get(prepared.task, _BOXES)
        self._reference = prepared.graph.serialize()
        self._pictures: Dataset | PictureSet
        if dataset is not None:
            self._pictures = dataset
            self.metric = "miou" if prepared.nms is None else "map_50_95"
            self.words = f"{self.metric} on {len(dataset.pictures)} labelled pictures"
        else:
            assert images is not None
            self._pictures = _unlabelled(images)
            self.metric = "agreement"
            self.words = (
                f"agreement with the float model ({_AGREEMENT.get(prepared.task, 'matched boxes at IoU 0.5')}) on "
                f"{len(self._pictures.pictures)} of the calibration pictures; no labels, so no accuracy"
            )
        self.count = len(self._pictures.pictures)

    def digest(self) -> str:
        """Hash of the pictures, the labels, and how the model is run."""
        digest = hashlib.sha256(self._reference)
        prepared = self._prepared
        digest.update(
            repr(
                (prepared.labels, prepared.preprocess, prepared.nms, prepared.task, self.metric, self._agreement)
            ).encode()
        )
        for picture in self._pictures.pictures:
            digest.update(picture.path.read_bytes())
        for truth in getattr(self._dataset, "truth", ()):
            arrays = (truth.xyxy, truth.class_id, truth.area, truth.crowd, truth.difficult)
            digest.update(b"".join(array.tobytes() for array in arrays) + repr(truth.outlines).encode())
        for mask in getattr(self._dataset, "masks", ()):
            digest.update(mask.read_bytes())
        return digest.hexdigest()

    def run(self, name: str, graph: bytes, info: GraphInfo, seed: int) -> Figures:
        """One run of a graph beside the float one, the input of both dithered by half a grey level.

        Args:
            name: its file name in a bundle.
            seed: of the dither.

        Returns:
            `reference`, `value`, `score_shift`, `float_recall`, `recall`: see Loss.

        Raises:
            DatasetError: the data set does not fit the model, or nothing is found that could agree.
        """
        from edgevision.evaluation import compare

        infos = {"model.onnx": GraphInfo("fp32", 0, 0), name: info}
        cpu_graph = name if name == "cpu.onnx" else "model.onnx"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "candidate.edge"
            manifest = self._prepared.manifest(infos, cpu_graph, "measured")
            write_bundle(path, manifest, {"model.onnx": self._reference, name: graph})
            graphs = compare(path, self._pictures, seeds=[seed], recording=self._recording)["graphs"]
        before, after = graphs["model.onnx"], graphs[name]
        if self._dataset is None:
            reference, value = 1.0, after["agreement"][self._agreement]
        else:
            reference, value = before[self.metric], after[self.metric]
        if value is None:
            raise DatasetError(
                f"the float model finds nothing on the pictures ({self.words}), so nothing can be lost there: give "
                "pictures like those the camera will see, or --dataset with labels"
            )
        return {
            "reference": reference,
            "value": value,
            "score_shift": after["agreement"].get("score_shift"),
            "float_recall": before["recall_at_threshold"],
            "recall": after["recall_at_threshold"],
        }


def _unlabelled(images: CalibrationImages) -> PictureSet:
    from edgevision.evaluation import PictureSet
    from edgevision.evaluation.datasets import Picture

    count = min(len(images), _UNLABELLED)
    spaced = [i * len(images) // count for i in range(count)]
    pictures = tuple(Picture(images.paths[i]) for i in spaced if images.read(i) is not None)
    if not pictures:
        raise DatasetError(f"none of the calibration pictures in {images.pattern!r} can be read; give others")
    return PictureSet(pictures)


def facts_of(loss: Loss) -> dict[str, Any]:
    """For reports."""
    return {
        "drop_points": round(loss.drop_points, 3),
        "standard_error": _rounded(loss.standard_error, 3),
        "score_shift": loss.score_shift,
        "score_shift_error": _rounded(loss.shift_error, 5),
        "recall_share": loss.recall,
        "recall_share_error": _rounded(loss.recall_error, 5),
        "seeds": list(loss.seeds),
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
