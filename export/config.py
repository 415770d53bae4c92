"""What the user may say about an export; everything left at None comes from the file or from the family."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgevision.calibration import METHODS
from edgevision.calibration.tensorrt_cache import read_cache_file
from edgevision.errors import UsageError
from edgevision.export.recipes import Recipe, Triple, parse_recipe
from edgevision.export.repair import REPAIRS
from edgevision.geometry import RESIZE_MODES
from edgevision.manifest import COLORS, LARGEST_SIDE, PRECISIONS


@dataclass(frozen=True)
class ExportConfig:
    """Options of one export.

    Attributes:
        precision: one of PRECISIONS; None: int8 with calibration images, fp16 without.
        family: a head family's name, or `auto`.
        head: options of that family by name, as text (`{"activation": "sigmoid"}`).
        head_spec: file that describes a detector's outputs (head_spec.py), in place of a family.
        labels: `coco80`, `coco90`, `voc21`, `cityscapes19`, or a file with one name per line.
        priors: file with an SSD's prior boxes, or a JSON specification to generate them from.
        input_wh: input size in pixels for a model that leaves it open.
        preprocess: how pixels are normalised, in one word or in numbers (recipes.py): stands for `mean` and `std`, and
            for `color` where it says one.
        resize: one of geometry.RESIZE_MODES.
        pad_value: grey level around a letterboxed picture, 0..255.
        color: one of manifest.COLORS.
        mean, std: per channel in the network's order, 0..255 units.
        nms_iou, confidence: defaults written into the bundle.
        calibration_images: folder or glob of pictures like those the model will see.
        calibration_method: how a range is chosen from a histogram.
        calibration_limit: pictures used at most.
        repairs: which of repair.REPAIRS are made.
        ranges: file to keep the calibrated ranges in, reused while nothing they depend on has changed; or a calibration
            cache of TensorRT's, whose ranges are taken.
        dataset: labelled pictures that accuracy is measured on.
        max_drop: accuracy budget: INT8 may lose at most so many points of mAP or mIoU on `dataset`; without one, so
            many of agreement with the float model on the calibration pictures. Layers are kept in FP16 to meet it.
        max_score_shift: how far the mean score of matched boxes may then move.
        min_recall: share of the float model's recall that must then be left.
        sensitivity: measure how much each layer harms, also without a budget.
        quiet: no progress.
    """

    precision: str | None = None
    family: str = "auto"
    head: Mapping[str, str] = field(default_factory=dict)
    head_spec: Path | str | None = None
    labels: str | None = None
    priors: Path | str | None = None
    input_wh: tuple[int, int] | None = None
    preprocess: str | None = None
    resize: str | None = None
    pad_value: float | None = None
    color: str | None = None
    mean: Triple | None = None
    std: Triple | None = None
    nms_iou: float | None = None
    confidence: float | None = None
    calibration_images: Path | str | None = None
    calibration_method: str = "mse"
    calibration_limit: int = 512
    repairs: Collection[str] = REPAIRS
    ranges: Path | str | None = None
    dataset: str | None = None
    max_drop: float | None = None
    max_score_shift: float = 0.03
    min_recall: float = 0.97
    sensitivity: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (
            ("precision", (None, *PRECISIONS)),
            ("resize", (None, *RESIZE_MODES)),
            ("color", (None, *COLORS)),
            ("calibration_method", METHODS),
        ):
            if getattr(self, name) not in allowed:
                choices = ", ".join(choice for choice in allowed if choice)
                raise UsageError(f"{name} is one of {choices}; got {getattr(self, name)!r}")
        if self.recipe is not None:
            for name in ("mean", "std", "color"):
                if getattr(self, name) is not None and getattr(self.recipe, name) is not None:
                    raise UsageError(f"--preprocess {self.preprocess} says {name} already: leave out --{name}")
        unknown = sorted(set(self.repairs) - set(REPAIRS))
        if unknown:
            raise UsageError(f"repairs are {', '.join(REPAIRS)}; got {', '.join(unknown)}")
        for name in ("nms_iou", "confidence"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise UsageError(f"{name} is in 0..1, got {value}")
        if self.input_wh is not None and not all(0 < side <= LARGEST_SIDE for side in self.input_wh):
            raise UsageError(f"input_wh has sides in 1..{LARGEST_SIDE}, got {self.input_wh}")
        if self.calibration_limit < 1:
            raise UsageError(f"calibration_limit is at least 1, got {self.calibration_limit}")
        stated = self.ranges is not None and read_cache_file(self.ranges) is not None
        if self.resolved_precision == "int8" and self.calibration_images is None and not stated:
            raise UsageError(
                "int8 needs pictures to measure ranges on, and there is no honest substitute: give "
                "--calibration-images FOLDER (30 to 500 pictures like those the camera will see), "
                "or choose --precision fp16"
            )
        self._check_budget()

    def _check_budget(self) -> None:
        if self.dataset is not None and self.max_drop is None:
            raise UsageError("--dataset measures what INT8 loses: say how much it may lose with --max-drop POINTS")
        if (self.max_drop is not None or self.sensitivity) and self.resolved_precision != "int8":
            raise UsageError("--max-drop and --sensitivity compare INT8 with float: they need --precision int8")
        if self.max_drop is not None and self.dataset is None and self.calibration_images is None:
            raise UsageError("--max-drop needs pictures: --dataset SPEC with labels, or --calibration-images without")
        if not (0 <= self.max_score_shift <= 1 and 0 <= self.min_recall <= 1):
            raise UsageError(
                f"max_score_shift and min_recall are in 0..1, got {self.max_score_shift}, {self.min_recall}"
            )

    @property
    def recipe(self) -> Recipe | None:
        """What `preprocess` stands for."""
        return None if self.preprocess is None else parse_recipe(self.preprocess)

    @property
    def resolved_precision(self) -> str:
        """The precision that is exported."""
        if self.precision is not None:
            return self.precision
        return "fp16" if self.calibration_images is None else "int8"
