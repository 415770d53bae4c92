"""The manifest of a bundle: everything the runtime must know about a model, as data.

Versioned JSON. Unknown versions are refused; unknown keys are errors, so that a typo cannot pass silently.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from edgevision.errors import BundleError
from edgevision.geometry import RESIZE_MODES

FORMAT_VERSION = 1
TASKS = ("detection", "instance", "keypoints", "semantic", "classification")
BOX_TASKS = TASKS[:3]
SUPPRESSION = ("greedy", "none")
PRECISIONS = ("fp32", "fp16", "int8")
COLORS = ("rgb", "bgr", "gray")
LARGEST_SIDE = 16384


@dataclass(frozen=True)
class Preprocess:
    """How a BGR uint8 picture becomes the network input: grey or not, resize, colour order, (x - mean) / std, layout,
    type.

    Attributes:
        input_name: name of the graph's input.
        input_wh: its size, pixels.
        layout: `nchw` or `nhwc`.
        dtype: `float32` or `uint8` (then mean and std must be 0 and 1: the graph normalises).
        resize: one of geometry.RESIZE_MODES.
        pad_value: grey level 0..255 around a letterboxed picture, before normalisation.
        color: `rgb` or `bgr`: the channel order the network expects; or `gray`: one channel, made of the picture as
            `cv2.COLOR_BGR2GRAY` does, before it is resized.
        mean, std: a number for each channel in 0..255 units, in the network's channel order.
    """

    input_name: str
    input_wh: tuple[int, int]
    layout: str = "nchw"
    dtype: str = "float32"
    resize: str = "stretch"
    pad_value: float = 114.0
    color: str = "rgb"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        for name, allowed in (
            ("layout", ("nchw", "nhwc")),
            ("dtype", ("float32", "uint8")),
            ("resize", RESIZE_MODES),
            ("color", COLORS),
        ):
            if getattr(self, name) not in allowed:
                raise BundleError(f"preprocess.{name} is one of {allowed}, got {getattr(self, name)!r}")
        if not all(0 < side <= LARGEST_SIDE for side in self.input_wh):
            raise BundleError(f"preprocess.input_wh has sides in 1..{LARGEST_SIDE}, got {self.input_wh}")
        if {len(self.mean), len(self.std)} != {self.channels}:
            raise BundleError(
                f"preprocess mean and std have {self.channels} number(s) where color is {self.color}, "
                f"got {self.mean}, {self.std}"
            )
        if not all(math.isfinite(v) for v in (*self.mean, *self.std)) or 0.0 in self.std:
            raise BundleError(f"preprocess mean and std are finite and std is not zero, got {self.mean}, {self.std}")
        if not 0 <= self.pad_value <= 255:
            raise BundleError(f"preprocess.pad_value is a grey level in 0..255, got {self.pad_value}")
        if self.dtype == "uint8" and (set(self.mean), set(self.std)) != ({0.0}, {1.0}):
            raise BundleError("a uint8 input takes raw pixels: preprocess mean must be 0 and std 1")

    @property
    def channels(self) -> int:
        """Of the input."""
        return 1 if self.color == "gray" else 3

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """One picture's part of the input: (channels, h, w) or (h, w, channels)."""
        width, height = self.input_wh
        return (self.channels, height, width) if self.layout == "nchw" else (height, width, self.channels)


@dataclass(frozen=True)
class Nms:
    """Non-maximum suppression after the network.

    Attributes:
        iou_threshold: boxes overlapping a better one by more than this are dropped.
        confidence: default score threshold.
        class_agnostic: suppress across classes.
        multi_label: a box may be reported once per class above the threshold (COCO's protocol), instead of
            only under its best class.
        max_detections: boxes kept per picture.
        suppression: `greedy`; or `none` where the graph leaves no duplicates (one-to-one heads, suppression inside):
            its outputs are then `boxes` [1, n, 4], `scores` [1, n] and `class_ids` int32 [1, n].
    """

    iou_threshold: float = 0.5
    confidence: float = 0.3
    class_agnostic: bool = False
    multi_label: bool = False
    max_detections: int = 300
    suppression: str = "greedy"

    def __post_init__(self) -> None:
        if self.suppression not in SUPPRESSION:
            raise BundleError(f"nms.suppression is one of {SUPPRESSION}, got {self.suppression!r}")
        for name in ("iou_threshold", "confidence"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise BundleError(f"nms.{name} is in 0..1, got {getattr(self, name)}")
        if not 1 <= self.max_detections <= 100_000:
            raise BundleError(f"nms.max_detections is in 1..100000, got {self.max_detections}")


@dataclass(frozen=True)
class GraphInfo:
    """One ONNX graph of a bundle.

    Attributes:
        precision: one of PRECISIONS.
        layers_int8: convolutions and matrix products with INT8 inputs.
        layers_float: those without.
        preprocess: how a picture becomes this graph's input, where that differs from the manifest's; see
            `Manifest.preprocess_of`.
        dynamic_batch: it takes any number of pictures at once, not one only.
    """

    precision: str
    layers_int8: int = 0
    layers_float: int = 0
    preprocess: Preprocess | None = None
    dynamic_batch: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise BundleError(f"a graph's precision is one of {PRECISIONS}, got {self.precision!r}")


@dataclass(frozen=True)
class FileInfo:
    """Length and hash of one file of a bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a bundle is.

    Attributes:
        name: the model's name, from its file name.
        task: one of TASKS; fixes the graphs' output names and shapes (the normal form).
        family: the head family that was recognised at export.
        precision: what was asked for at export.
        labels: class names; index = class id.
        preprocess: see Preprocess; a graph whose input differs has its own, see `preprocess_of`.
        nms: see Nms; None for tasks without.
        graphs: file name -> facts. Always `model.onnx` (float, the reference); `tensorrt.onnx` at `precision`;
            `tensorrt_fp16.onnx` beside an INT8 one; `cpu.onnx` where an INT8 graph for ONNX Runtime was kept.
        cpu_graph: the graph that ONNX Runtime's CPU provider runs by default.
        cpu_graph_reason: why that one.
        source_sha256: hash of the ONNX file that was exported.
        producer: program and version that wrote the bundle.
        files: name -> length and hash of every file but the manifest; filled in when written.
    """

    name: str
    task: str
    family: str
    precision: str
    labels: tuple[str, ...]
    preprocess: Preprocess
    graphs: dict[str, GraphInfo]
    nms: Nms | None = None
    cpu_graph: str = "model.onnx"
    cpu_graph_reason: str = ""
    source_sha256: str = ""
    producer: str = ""
    files: dict[str, FileInfo] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise BundleError(f"task is one of {TASKS}, got {self.task!r}")
        if self.precision not in PRECISIONS:
            raise BundleError(f"precision is one of {PRECISIONS}, got {self.precision!r}")
        if self.cpu_graph not in self.graphs or "model.onnx" not in self.graphs:
            raise BundleError(f"graphs must hold model.onnx and {self.cpu_graph}, got {sorted(self.graphs)}")
        if (self.task in BOX_TASKS) != (self.nms is not None):
            raise BundleError(f"nms is stated for {', '.join(BOX_TASKS)}, and only there; the task is {self.task}")
        for name, info in self.graphs.items():
            if info.preprocess is not None and info.preprocess.input_wh != self.preprocess.input_wh:
                raise BundleError(
                    f"the graphs of a bundle have one input size: {name} takes {info.preprocess.input_wh}, "
                    f"the bundle {self.preprocess.input_wh}"
                )

    def preprocess_of(self, graph_name: str) -> Preprocess:
        """How a picture becomes the input of one of `graphs`."""
        return self.graphs[graph_name].preprocess or self.preprocess

    def to_json(self) -> dict[str, Any]:
        """Plain data for json.dump."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> Manifest:
        """Check and convert parsed JSON.

        Raises:
            BundleError: a key is missing, unknown or of the wrong type, or the version is newer.
        """
        version = data.get("format_version") if isinstance(data, dict) else None
        if version != FORMAT_VERSION:
            raise BundleError(
                f"this bundle has format version {version!r}, expected {FORMAT_VERSION}; "
                "install the edgevision that wrote it, or export the model again"
            )
        return _structure(cls, data, "manifest")


T = TypeVar("T")


def _structure(kind: type[T], data: Any, where: str) -> T:
    """Build dataclass `kind` from plain data, strictly."""
    if not isinstance(data, dict):
        raise BundleError(f"{where} is an object, got {type(data).__name__}")
    hints = get_type_hints(kind)
    unknown = sorted(set(data) - set(hints))
    if unknown:
        raise BundleError(f"{where} has unknown keys {unknown}")
    try:
        return kind(**{key: _value(hints[key], value, f"{where}.{key}") for key, value in data.items()})
    except TypeError as error:
        raise BundleError(f"{where} is incomplete: {error}") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _structure(hint, value, where)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is dict and isinstance(value, Mapping):
        return {str(key): _value(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin is tuple and isinstance(value, (list, tuple)):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) == len(value):
            return tuple(_value(k, item, f"{where}[{i}]") for i, (k, item) in enumerate(zip(kinds, value, strict=True)))
    elif type(None) in arguments:
        return None if value is None else _value(arguments[0], value, where)
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            return float(value)
    elif hint is str and isinstance(value, str):
        with contextlib.suppress(UnicodeEncodeError):  # half a surrogate pair: JSON can say it, nobody can print it
            value.encode()
            return value
    elif hint in (int, bool) and type(value) is hint:
        return value
    raise BundleError(f"{where} should be {hint}, got {value!r}")
