"""Which preprocessing a model gets: the user's flags, else the file's metadata, else the family's defaults; never a
guess."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import onnx

from edgevision.errors import ModelError, UsageError
from edgevision.export.config import ExportConfig
from edgevision.export.graph import Graph, type_name
from edgevision.export.heads.base import ImageInput, PreprocessDefaults
from edgevision.export.metadata import Metadata
from edgevision.export.recipes import CHOICES, Triple
from edgevision.geometry import RESIZE_MODES
from edgevision.manifest import COLORS, LARGEST_SIDE, Preprocess

_TYPES = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.UINT8: "uint8"}


def image_input(graph: Graph) -> ImageInput:
    """The input that takes the picture: four dimensions, three channels or a grey one, first or last, float32 or uint8.

    Raises:
        ModelError: there is none, there are several, or its layout cannot be told.
    """
    shapes = {name: graph.shape(name) or () for name in graph.inputs}
    images = [name for name, shape in shapes.items() if len(shape) == 4]
    if len(images) != 1:
        raise ModelError(f"the model's inputs are {shapes}; expected exactly one picture [1,3,H,W] or [1,H,W,3]")
    name = images[0]
    _, second, third, fourth = shapes[name]
    channels = 3 if 3 in (second, fourth) else 1
    first, last = second == channels, fourth == channels
    if first == last:
        raise ModelError(
            f"input {name!r} has shape {list(shapes[name])}; expected three colour channels, or a grey one, either "
            "second ([1,3,H,W]) or last ([1,H,W,3])"
        )
    kind = _TYPES.get(graph.dtype(name) or 0)
    if kind is None:
        found = type_name(graph.dtype(name) or 0)
        raise ModelError(f"input {name!r} takes {found}; expected float32 or uint8 pixels")
    wh = (fourth, third) if first else (third, second)
    if not all(0 < side <= LARGEST_SIDE for side in wh):
        raise ModelError(
            f"input {name!r} takes {wh[0]}x{wh[1]} pixels; expected sides in 1..{LARGEST_SIDE}: export it for such"
        )
    return ImageInput(name, wh, "nchw" if first else "nhwc", kind, channels)


def resolve_preprocess(
    image: ImageInput, config: ExportConfig, metadata: Metadata, defaults: PreprocessDefaults
) -> tuple[Preprocess, dict[str, str]]:
    """The preprocessing and, for each of its settings, where it comes from.

    Raises:
        UsageError: nothing says how pixels are normalised, or flags contradict a uint8 input or its channels.
        ModelError: the metadata's entry is malformed, or contradicts the input's channels.
    """
    noted = _from_metadata(metadata)
    chosen: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name in ("resize", "pad_value", "color", "mean", "std"):
        for value, source in (
            (getattr(config, name), f"--{name.replace('_', '-')}"),
            (getattr(config.recipe, name, None), f"--preprocess {config.preprocess}"),
            (noted.get(name), "metadata"),
            (getattr(defaults, name), f"default of {defaults.source}"),
        ):
            if value is not None:
                chosen[name], sources[name] = value, source
                break
    _check_channels(image, metadata)
    if image.channels == 1:
        _make_grey(image, chosen, sources)
    elif chosen["color"] == "gray":
        raise UsageError(f"{sources['color']} gray: input {image.name!r} takes three channels; leave it out")
    if image.dtype == "uint8":
        stated = [name for name in ("preprocess", "mean", "std") if getattr(config, name) is not None]
        if stated:
            raise UsageError(
                f"input {image.name!r} takes uint8 pixels and normalises them in the graph: leave out --{stated[0]}"
            )
        chosen.update(mean=(0.0,) * image.channels, std=(1.0,) * image.channels)
        sources.update(mean="uint8 input", std="uint8 input")
    missing = [name for name in ("mean", "std") if name not in chosen]
    if len(missing) == 1:
        raise UsageError(f"mean and std belong together, and nothing says {missing[0]}: give --{missing[0]}, too")
    if missing:
        raise UsageError(
            "nothing says how this model's pixels are normalised, and a wrong guess costs accuracy silently: give "
            f"--preprocess as in training, which is {CHOICES}. Common here: {defaults.candidates}"
        )
    if 0.0 in chosen["std"]:
        raise UsageError(f"{sources['std']}: std has a zero, got {chosen['std']}")
    return Preprocess(image.name, image.wh, image.layout, image.dtype, **chosen), sources


def _check_channels(image: ImageInput, metadata: Metadata) -> None:
    noted = metadata.ultralytics.get("channels", image.channels)
    if noted != image.channels:
        raise ModelError(
            f"metadata: the model takes {noted} channel(s), its input {image.name!r} {image.channels}; "
            "export it again, or remove the metadata"
        )


def _make_grey(image: ImageInput, chosen: dict[str, Any], sources: dict[str, str]) -> None:
    """What was chosen, for an input of one channel: a single mean and std, no order of colours."""
    if chosen["color"] != "gray" and not sources["color"].startswith("default"):
        raise UsageError(
            f"{sources['color']} says {chosen['color']}: input {image.name!r} takes one channel, a grey picture; "
            "leave the order of colours out"
        )
    chosen["color"], sources["color"] = "gray", "one channel"
    for name in ("mean", "std"):
        numbers = set(chosen.get(name, ()))
        if len(numbers) == 1:
            chosen[name] = (numbers.pop(),)
        elif numbers and not sources[name].startswith("default"):
            raise UsageError(
                f"{sources[name]}: {name} has three numbers, {_listed(chosen[name])}, and input {image.name!r} takes "
                "one channel; give one number, in 0..255 units, as the network was trained with"
            )
        elif numbers:  # a family's colour statistics do not say what its grey ones are
            del chosen[name], sources[name]


def _listed(numbers: Triple) -> str:
    return ",".join(f"{number:g}" for number in numbers)


def _from_metadata(metadata: Metadata) -> Mapping[str, Any]:
    noted = metadata.section("preprocess")
    checked: dict[str, Any] = {}
    for name, value in noted.items():
        if name in ("mean", "std"):
            checked[name] = _triple(value, name)
        elif name == "pad_value" and isinstance(value, (int, float)) and 0 <= value <= 255:
            checked[name] = float(value)
        elif (name == "resize" and value in RESIZE_MODES) or (name == "color" and value in COLORS):
            checked[name] = value
        else:
            raise ModelError(f"metadata: preprocess.{name} = {value!r} is not understood; correct or remove it")
    return checked


def _triple(value: Any, name: str) -> Triple:
    numbers = [value] * 3 if isinstance(value, (int, float)) else value
    if (
        not isinstance(numbers, list)
        or len(numbers) != 3
        or not all(isinstance(v, (int, float)) and math.isfinite(v) for v in numbers)
    ):
        raise ModelError(f"metadata: preprocess.{name} is one or three numbers, got {value!r}; correct it")
    return (float(numbers[0]), float(numbers[1]), float(numbers[2]))
