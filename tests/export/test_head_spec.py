"""Heads described in TOML: every layout and box format against a decode row by row, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgevision.cli import main
from edgevision.errors import EdgeVisionError, ModelError, UnknownFamilyError, UsageError
from edgevision.export import ExportConfig, PreparedModel, prepare
from edgevision.export.head_spec import read_head_spec
from tests.export.builders import Builder, grid_priors, picture_tensor, run
from tests.export.cell_kit import CLASSES, HW, check, each_cell, features, sigmoid

PIXELS = "[preprocess]\nmean = 0\nstd = 255\n"
STRIDES = (8, 16)
SIZE = np.array([HW[1], HW[0]] * 2)


def model_of(layout: str, columns: int = 5 + CLASSES, *, joined: bool = True) -> onnx.ModelProto:
    """One output `out` of all locations, or one per stride (`out8`, `out16`)."""
    b = Builder(71)
    levels = []
    for feature, stride in zip(features(b, STRIDES), STRIDES, strict=True):
        x = b.conv(feature, 12, columns, kernel=1, gain=1.5)
        if layout != "maps":
            x = b.op("Reshape", x, b.constant(np.array([1, columns, -1])))
        if layout == "rows":
            x = b.op("Transpose", x, perm=[0, 2, 1])
        levels.append(x if joined else b.op("Identity", x, out=f"out{stride}"))
    if joined:
        b.op("Concat", *levels, axis=1 if layout == "rows" else 2, out="out")
    return b.model({"image": [1, 3, *HW]}, ["out"] if joined else ["out8", "out16"])


def spec(tmp_path: Path, text: str) -> ExportConfig:
    path = tmp_path / "head.toml"
    path.write_text(f'name = "mine"\n{text}')
    return ExportConfig(precision="fp32", head_spec=path)


def columns(layout: str, output: str, boxes: str) -> str:
    place = f"output = {output}\nlayout = '{layout}'\n"
    return (
        f"[boxes]\n{place}columns = [0, 4]\n{boxes}\n"
        f"[objectness]\n{place}columns = [4, 5]\nactivation = 'sigmoid'\n"
        f"[scores]\n{place}columns = [5, {5 + CLASSES}]\nactivation = 'sigmoid'\n{PIXELS}"
    )


def table(raw: dict[str, Any], layout: str) -> Any:
    """All rows [N, columns] of the outputs, in float64."""
    parts = []
    for value in raw.values():
        flat = value[0].reshape(value.shape[1], -1).T if layout == "maps" else value[0]
        parts.append(flat.T if layout == "columns" else flat)
    return np.concatenate(parts).astype(float)


def by_hand(form: str, unit: str, four: Any) -> Any:
    """Corners in pixels, box by box."""
    boxes = []
    cells = [(x, y, stride) for stride in STRIDES for x, y in each_cell(stride)]
    for (x, y, stride), box in zip(cells, four, strict=True):
        if form in ("yxyx", "cycxhw", "offsets-yx"):
            box = box[[1, 0, 3, 2]]
        a, b, c, d = box * (stride if unit == "strides" else 1)
        if form in ("xyxy", "yxyx"):
            one = [a, b, c, d]
        elif form in ("cxcywh", "cycxhw"):
            one = [a - c / 2, b - d / 2, a + c / 2, b + d / 2]
        elif form == "ltrb":
            cx, cy = (x + 0.25) * stride, (y + 0.25) * stride
            one = [cx - a, cy - b, cx + c, cy + d]
        else:
            cx, cy, w, h = (x + 0.25 + a) * stride, (y + 0.25 + b) * stride, np.exp(c) * stride, np.exp(d) * stride
            one = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
        boxes.append(np.array(one) * (SIZE if unit == "fractions" else 1))
    return boxes


FORMS = [
    *((form, unit) for form in ("xyxy", "yxyx", "cxcywh", "cycxhw") for unit in ("pixels", "fractions")),
    ("ltrb", "pixels"),
    ("ltrb", "strides"),
    ("offsets", ""),
    ("offsets-yx", ""),
]


@pytest.mark.parametrize(("layout", "joined"), [("rows", True), ("columns", True), ("rows", False), ("maps", False)])
@pytest.mark.parametrize(("form", "unit"), FORMS)
def test_every_box_format_in_every_layout(tmp_path: Path, form: str, unit: str, layout: str, joined: bool) -> None:
    model = model_of(layout, joined=joined)
    grid = "[grid]\nstrides = [8, 16]\npoint = 0.25\n" if form in ("ltrb", "offsets", "offsets-yx") else ""
    boxes = f"format = '{form}'\n" + (f"unit = '{unit}'\n" if unit else "")
    text = columns(layout, "'out'" if joined else "['out8', 'out16']", boxes) + grid
    prepared = prepare(model.SerializeToString(), spec(tmp_path, text))
    assert (prepared.family, prepared.task, prepared.classes) == ("mine", "detection", CLASSES)
    image = picture_tensor(model)
    got, rows = run(prepared.graph.serialize(), image), table(run(model, image), layout)
    scores = sigmoid(rows[:, 4:5]) * sigmoid(rows[:, 5:])
    factor = 1 if unit == "fractions" or not unit.startswith("p") else 0.1
    np.testing.assert_allclose(got["boxes"][0], by_hand(form, unit, rows[:, :4]), rtol=2e-5, atol=2e-3 * factor)
    np.testing.assert_allclose(got["scores"][0], scores, atol=2e-6)
    assert scores.std() > 0.01


@pytest.mark.parametrize(
    ("background", "kept"), [("none", slice(None)), ("first", slice(1, None)), ("last", slice(-1))]
)
@pytest.mark.parametrize("activation", ["none", "sigmoid", "softmax"])
def test_activation_and_background(tmp_path: Path, activation: str, background: str, kept: slice) -> None:
    model = model_of("rows", 4 + CLASSES)
    text = (
        "[boxes]\noutput = 'out'\ncolumns = [0, 4]\nformat = 'xyxy'\nunit = 'pixels'\n"
        f"[scores]\noutput = 'out'\ncolumns = [4, {4 + CLASSES}]\nactivation = '{activation}'\n"
        f"background = '{background}'\n{PIXELS}"
    )
    prepared = prepare(model.SerializeToString(), spec(tmp_path, text))
    image = picture_tensor(model)
    logits = run(model, image)["out"][0, :, 4:].astype(float)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = {"none": logits, "sigmoid": sigmoid(logits), "softmax": shares}[activation][:, kept]
    np.testing.assert_allclose(run(prepared.graph.serialize(), image)["scores"][0], expected, atol=2e-6)
    assert prepared.classes == expected.shape[1]


@pytest.mark.parametrize("form", ["offsets", "offsets-yx"])
def test_offsets_to_priors_from_a_file_beside_the_specification(tmp_path: Path, form: str) -> None:
    model = model_of("rows", 4 + CLASSES)
    count = sum(len(each_cell(stride)) for stride in STRIDES)
    priors = grid_priors(12, [0.2])[:count].astype(float)
    np.save(tmp_path / "priors.npy", priors)
    text = (
        f"[boxes]\noutput = 'out'\ncolumns = [0, 4]\nformat = '{form}'\n"
        f"[scores]\noutput = 'out'\ncolumns = [4, 7]\nactivation = 'sigmoid'\n"
        f"[priors]\nfile = 'priors.npy'\nformat = 'cxcywh'\nvariances = [0.1, 0.2]\n{PIXELS}"
    )
    prepared = prepare(model.SerializeToString(), spec(tmp_path, text))
    image = picture_tensor(model)
    raw, got = run(model, image)["out"][0].astype(float), run(prepared.graph.serialize(), image)
    boxes = []
    for row, (px, py, pw, ph) in zip(raw[:, :4], priors * SIZE, strict=True):
        dx, dy, dw, dh = row[[1, 0, 3, 2]] if form == "offsets-yx" else row
        cx, cy, w, h = px + dx * 0.1 * pw, py + dy * 0.1 * ph, pw * np.exp(dw * 0.2), ph * np.exp(dh * 0.2)
        boxes.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
    check(got, boxes, sigmoid(raw[:, 4:]).tolist())


def test_what_the_specification_says_about_the_rest_is_taken(tmp_path: Path) -> None:
    text = "labels = ['car', 'bus', 'tram']\n" + columns("rows", "'out'", "format = 'xyxy'\nunit = 'pixels'")
    text += "resize = 'letterbox'\ncolor = 'bgr'\npad_value = 7\n[nms]\niou_threshold = 0.3\nmax_detections = 9\n"
    prepared = prepare(model_of("rows").SerializeToString(), spec(tmp_path, text))
    assert prepared.labels == ("car", "bus", "tram")
    used = prepared.preprocess
    assert (used.resize, used.color, used.pad_value, used.std) == ("letterbox", "bgr", 7.0, (255.0,) * 3)
    assert prepared.nms is not None
    assert (prepared.nms.iou_threshold, prepared.nms.max_detections) == (0.3, 9)


def test_the_command_line_takes_it(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(model_of("rows").SerializeToString())
    config = spec(tmp_path, columns("rows", "'out'", "format = 'xyxy'\nunit = 'pixels'"))
    bundle = tmp_path / "model.edge"
    command = ["export", str(tmp_path / "model.onnx"), "-o", str(bundle), "--precision", "fp32", "--quiet"]
    assert main([*command, "--head-spec", str(config.head_spec)]) == 0
    assert bundle.exists()
    assert main([*command, "--head-spec", str(tmp_path / "absent.toml")]) == 2


GOOD = columns("rows", "'out'", "format = 'xyxy'\nunit = 'pixels'")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[nms]", "[nms]", ""),
        ("[boxes]", "[bones]", "no key 'bones'; allowed are name, about, labels, boxes, scores, objectness, grid"),
        ("format", "fromat", "[boxes] has no key 'fromat'; it takes output, layout, columns, format, unit"),
        ("unit = 'pixels'", "", "unit is pixels or fractions"),
        ("unit = 'pixels'", "unit = 'inches'", "unit is one of pixels, fractions, strides, got 'inches'"),
        ("columns = [0, 4]", "columns = [0, 5]", "[boxes] and [objectness] read the same columns"),
        ("columns = [0, 4]", "columns = [4, 0]", "the first below the second"),
        ("columns = [0, 4]", "columns = 4", "two whole numbers"),
        ("'xyxy'", "'ltrb'", "need [grid]"),
        ("'xyxy'", "'offsets'", "unit is left out"),
        ("std = 255", "std = [1, 2]", "[preprocess]: std is one number or three"),
        ("std = 255", "std = nan", "[preprocess]: std is one number or three"),
        ("std = 255", "std = 255\n[nms]\niou_threshold = 2", "a number in 0..1, got 2"),
        ("std = 255", "std = 255\n[nms]\nmax_detections = 0", "max_detections"),
        ("std = 255", "std = 255\n[nms]\nsuppression = 'none'", "it takes iou_threshold"),
        ("[preprocess]", "[grid]\nstrides = [8]\n[preprocess]", "need neither [grid]"),
        ("activation = 'sigmoid'", "", "[objectness] lacks activation"),
        ("[boxes]", "name = 'x y'\n[boxes]", "is not TOML"),
        ("[boxes]", "[[boxes]]", "[boxes] is a table"),
        ("[boxes]", "a = " + "[" * 3000 + "\n[boxes]", "is not TOML"),
    ],
)
def test_what_is_wrong_in_a_specification_is_said(tmp_path: Path, old: str, new: str, words: str) -> None:
    config = spec(tmp_path, GOOD.replace(old, new, 1))
    assert config.head_spec is not None
    if not words:
        assert read_head_spec(config.head_spec).name == "mine"
        return
    with pytest.raises(UsageError, match=re.escape(words)):
        read_head_spec(config.head_spec)


@pytest.mark.parametrize(
    ("old", "new", "error", "words"),
    [
        ("'out'", "'absent'", UnknownFamilyError, "there is no output 'absent'; the model has out"),
        ("'rows'", "'maps'", UnknownFamilyError, "not of layout maps"),
        ("[0, 4]", "[0, 3]", UnknownFamilyError, "a box has four columns, got 3"),
        ("[5, 8]", "[5, 9]", UnknownFamilyError, "columns [5, 9] reach beyond the 8"),
        ("[boxes]", "labels = ['one']\n[boxes]", ModelError, "names 1 classes, the scores have 3"),
        ("'xyxy'\nunit = 'pixels'", "'offsets'\n[grid]\nstrides = [8]", UnknownFamilyError, "96 cells in an input of"),
    ],
)
def test_a_specification_that_does_not_fit_the_model(
    tmp_path: Path, old: str, new: str, error: type[EdgeVisionError], words: str
) -> None:
    with pytest.raises(error, match=re.escape(words)):
        prepare(model_of("rows").SerializeToString(), spec(tmp_path, GOOD.replace(old, new, 1)))


def test_an_activation_is_not_applied_twice(tmp_path: Path) -> None:
    b = Builder(72)
    feature = features(b, (8,))[0]
    for name, width in (("boxes", 4), ("scores", CLASSES)):
        flat = b.op("Reshape", b.conv(feature, 12, width, kernel=1), b.constant(np.array([1, width, -1])))
        b.op("Sigmoid" if name == "scores" else "Identity", flat, out=name)
    model = b.model({"image": [1, 3, *HW]}, ["scores", "boxes"]).SerializeToString()
    text = "[boxes]\noutput = 'boxes'\nlayout = 'columns'\nformat = 'xyxy'\nunit = 'pixels'\n"
    text += "[scores]\noutput = 'scores'\nlayout = 'columns'\nactivation = '{}'\n" + PIXELS
    assert isinstance(prepare(model, spec(tmp_path, text.format("none"))), PreparedModel)
    for activation in ("sigmoid", "softmax"):
        with pytest.raises(ModelError, match="twice"):
            prepare(model, spec(tmp_path, text.format(activation)))


def test_a_name_is_given_once(tmp_path: Path) -> None:
    path = tmp_path / "head.toml"
    path.write_text(GOOD.replace("[boxes]", 'name = "yolox"\n[boxes]', 1))
    data = model_of("rows").SerializeToString()
    with pytest.raises(UsageError, match="there is a family 'yolox' already"):
        prepare(data, ExportConfig(precision="fp32", head_spec=path))
    with pytest.raises(UsageError, match="give one of them"):
        prepare(data, ExportConfig(precision="fp32", head_spec=path, family="ssd"))
