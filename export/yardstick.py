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
        drop_points: their difference in hundredths; `standard_error` of it, None for one run.
        score_shift: see Goal; None for tasks without scores.
        recall: this graph's recall as a share of the float one's; None without labels or objects found.
        seeds: of the runs.
    """

    reference: float
    value: float
    drop_points: float
    standard_error: float | None
    score_shift: float | None
    recall: float | None
    seeds: tuple[int, ...]

    def miss(self, goal: Goal, slack_points: float = 0.0) -> str:
        """Why this is too much, in words; empty where it is not."""
        found = []
        if self.drop_points > goal.max_drop + slack_points:
            found.append(f"{self.drop_points:.2f} points lost, at most {goal.max_drop:g} allowed")
        if self.score_shift is not None and abs(self.score_shift) > goal.max_score_shift:
            found.append(f"scores shifted by {self.score_shift:+.3f}, at most {goal.max_score_shift:g} allowed")
        if self.recall is not None and self.recall < goal.min_recall:
            found.append(f"{self.recall:.1%} of float's recall left, at least {goal.min_recall:.0%} wanted")
        return "; ".join(found)


def loss_of(runs: Sequence[Figures], seeds: Sequence[int]) -> Loss:
    """The mean of what `Yardstick.run` returned."""

    def mean(name: str) -> float | None:
        values = [run[name] for run in runs]
        return None if None in values else float(np.mean([value for value in values if value is not None]))

    reference, value = mean("reference") or 0.0, mean("value") or 0.0
    drops = [100 * ((run["reference"] or 0.0) - (run["value"] or 0.0)) for run in runs]
    error = float(np.std(drops, ddof=1) / np.sqrt(len(drops))) if len(drops) > 1 else None
    recall, before = mean("recall"), mean("float_recall")
    share = recall / before if recall is not None and before else None
    return Loss(reference, value, float(np.mean(drops)), error, mean("score_shift"), share, tuple(seeds))


class Yardstick:
    """Measures graphs of one model on one set of pictures.

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
        self._prepared, self._dataset = prepared, dataset
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
        digest.update(repr((prepared.labels, prepared.preprocess, prepared.nms, prepared.task, self.metric)).encode())
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
            graphs = compare(path, self._pictures, seeds=[seed])["graphs"]
        before, after = graphs["model.onnx"], graphs[name]
        if self._dataset is None:
            reference, value = 1.0, after["agreement"][_AGREEMENT.get(self._prepared.task, "matched_50")]
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
        "standard_error": None if loss.standard_error is None else round(loss.standard_error, 3),
        "score_shift": loss.score_shift,
        "recall_share": loss.recall,
        "seeds": list(loss.seeds),
    }
