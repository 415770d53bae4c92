"""YOLACT: graphs as its exporters write them, against a decode row by row, priors written out from the repository's
configuration, and masks assembled another way."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgevision.errors import ModelError, UnknownFamilyError, UsageError
from edgevision.export import ExportConfig, export_model, prepare
from edgevision.model import load
from tests.export.builders import Builder, picture_tensor, run

CLASSES, MASKS, SIDE = 5, 8, 64
STRIDES = (8, 16, 32, 64, 128)
SCALES = (6.0, 12.0, 24.0, 48.0, 60.0)
SMALL = ExportConfig(precision="fp32", head={"scales": "6,12,24,48,60"})


def priors(variant: str, side: int = SIDE, scales: tuple[float, ...] = SCALES) -> NDArray[np.float64]:
    """cx, cy, w, h in units of the input, one by one."""
    found = []
    for stride, scale in zip(STRIDES, scales, strict=True):
        cells = math.ceil(side / stride)
        for j in range(cells):
            for i in range(cells):
                for step in range(3 if variant == "YOLACT++" else 1):
                    for ratio in (1, 1 / 2, 2):
                        size = scale * 2 ** (step / 3)
                        w, h = size * math.sqrt(ratio) / side, size / math.sqrt(ratio) / side
                        found.append([(i + 0.5) / cells, (j + 0.5) / cells, w, w if variant == "YOLACT" else h])
    return np.array(found)


def yolact_model(
    variant: str = "YOLACT",
    *,
    side: int = SIDE,
    last: bool = True,
    softmax: bool = True,
    tanh: bool = True,
    stated: NDArray[np.float64] | None = None,
    loc: NDArray[np.float64] | None = None,
    classes: int = CLASSES,
) -> onnx.ModelProto:
    """One prediction module at five strides; `stated` priors become an output, `loc` replaces the box offsets."""
    b, per_cell = Builder(41), 9 if variant == "YOLACT++" else 3
    x = b.op("Relu", b.conv("image", 3, 16, stride=2, gain=1.5))
    fine = x = b.op("Relu", b.conv(x, 16, 16, stride=2, gain=1.5))
    widths = {"loc": 4, "conf": classes + 1, "mask": MASKS}
    parts: dict[str, list[str]] = {name: [] for name in widths}
    for _ in STRIDES:
        x = b.op("Relu", b.conv(x, 16, 16, stride=2, gain=1.5))
        for name, width in widths.items():
            turned = b.op("Transpose", b.conv(x, 16, per_cell * width, kernel=1, gain=2), perm=[0, 2, 3, 1])
            flat = b.op("Reshape", turned, b.constant(np.array([1, -1, width])))
            parts[name].append(b.op("Tanh", flat) if name == "mask" and tanh else flat)
    joined = {name: b.op("Concat", *rows, axis=1) for name, rows in parts.items()}
    b.op("Identity", joined["mask"], out="mask")
    b.op("Softmax" if softmax else "Identity", joined["conf"], out="conf", **({"axis": 2} if softmax else {}))
    if loc is None:
        b.op("Identity", joined["loc"], out="loc")
    else:
        silent = b.op("Mul", joined["loc"], b.constant(np.float32(0)))
        b.op("Add", silent, b.constant(loc[None].astype(np.float32)), out="loc")
    prototypes = b.conv(fine, 16, MASKS, kernel=1, gain=1.5)
    b.op("Transpose" if last else "Identity", prototypes, out="proto", **({"perm": [0, 2, 3, 1]} if last else {}))
    outputs = ["loc", "conf", "mask", "proto"]
    if stated is not None:
        b.op("Identity", b.constant(stated.astype(np.float32), "boxes_before"), out="priors")
        outputs.insert(3, "priors")
    return b.model({"image": [1, 3, side, side]}, outputs)


def corners(loc: NDArray[Any], before: NDArray[np.float64], side: int = SIDE) -> NDArray[np.float64]:
    """As dbolya/yolact's box_utils.decode describes it, in pixels."""
    centre = before[:, :2] + loc[:, :2] * 0.1 * before[:, 2:]
    size = before[:, 2:] * np.exp(loc[:, 2:] * 0.2)
    return np.concatenate([centre - size / 2, centre + size / 2], axis=1) * side


@pytest.mark.parametrize("softmax", [True, False], ids=["softmax", "logits"])
@pytest.mark.parametrize("last", [True, False], ids=["nhwc", "nchw"])
@pytest.mark.parametrize(("variant", "classes"), [("YOLACT", 5), ("YOLACT", 3), ("YOLACT++", 5)])
def test_yolact(variant: str, last: bool, softmax: bool, classes: int) -> None:
    model = yolact_model(variant, last=last, softmax=softmax, classes=classes)
    prepared = prepare(model.SerializeToString(), SMALL)
    assert (prepared.family, prepared.task, prepared.classes) == ("yolact", "instance", classes)
    assert (prepared.preprocess.resize, prepared.preprocess.color) == ("stretch", "rgb")
    for seed in range(2):
        image = picture_tensor(model, seed)
        raw, got = run(model, image), run(prepared.graph.serialize(), image)
        expected = corners(raw["loc"][0].astype(float), priors(variant))
        np.testing.assert_allclose(got["boxes"][0], expected, rtol=1e-4, atol=1e-3)
        scores = raw["conf"][0].astype(float)
        if not softmax:
            scores = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(got["scores"][0], scores[:, 1:], atol=1e-6)
        np.testing.assert_array_equal(got["mask_coefficients"], raw["mask"])
        np.testing.assert_array_equal(
            got["mask_prototypes"], raw["proto"].transpose(0, 3, 1, 2) if last else raw["proto"]
        )
        assert np.std(expected) > 3
        assert np.std(scores) > 0.01


@given(seed=st.integers(0, 1 << 20))
@settings(max_examples=8, deadline=None)
def test_encoded_boxes_come_back(seed: int) -> None:
    random = np.random.default_rng(seed)
    before = priors("YOLACT")
    centre, size = random.uniform(0, 1, (len(before), 2)), random.uniform(0.02, 1, (len(before), 2))
    wanted = np.concatenate([centre - size / 2, centre + size / 2], axis=1) * SIDE
    loc = np.concatenate([(centre - before[:, :2]) / (0.1 * before[:, 2:]), np.log(size / before[:, 2:]) / 0.2], axis=1)
    model = yolact_model(loc=loc)
    got = run(prepare(model.SerializeToString(), SMALL).graph.serialize(), picture_tensor(model))
    np.testing.assert_allclose(got["boxes"][0], wanted, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize(("side", "count"), [(550, 19248), (400, 10077), (700, 30963)])
def test_the_repositorys_sizes_need_no_flag(side: int, count: int) -> None:
    scales = {550: (24, 48, 96, 192, 384), 400: (17, 34, 69, 139, 279), 700: (30, 61, 122, 244, 488)}[side]
    before = priors("YOLACT", side, scales)
    assert len(before) == count
    model = yolact_model(side=side, loc=np.zeros((count, 4)))
    got = run(
        prepare(model.SerializeToString(), ExportConfig(precision="fp32")).graph.serialize(), picture_tensor(model)
    )
    np.testing.assert_allclose(got["boxes"][0], corners(np.zeros((count, 4)), before, side), rtol=1e-4, atol=1e-3)


def test_priors_may_stand_in_the_file_or_beside_it(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    count = len(priors("YOLACT"))
    odd = np.concatenate([random.uniform(0.2, 0.8, (count, 2)), random.uniform(0.1, 0.3, (count, 2))], axis=1)
    loc = random.normal(0, 1, (count, 4))
    np.save(tmp_path / "priors.npy", odd)
    for model, options in (
        (yolact_model(stated=odd, loc=loc), {}),
        (yolact_model(loc=loc), {"priors": tmp_path / "priors.npy"}),
    ):
        prepared = prepare(model.SerializeToString(), ExportConfig(precision="fp32", **options))
        got = run(prepared.graph.serialize(), picture_tensor(model))
        np.testing.assert_allclose(got["boxes"][0], corners(loc, odd), rtol=1e-4, atol=1e-3)


def test_masks_are_those_of_another_assembly(tmp_path: Path) -> None:
    """prototypes @ coefficients, enlarged to the picture by OpenCV, positive within the box. YOLACT enlarges the
    sigmoid of it: the same but for pixels of the edge, more of them in these noisy masks than in trained ones."""
    source = tmp_path / "yolact.onnx"
    source.write_bytes(yolact_model().SerializeToString())
    config = ExportConfig(precision="fp32", head=SMALL.head, confidence=0.6, quiet=True)
    export_model(source, tmp_path / "yolact.edge", config)
    small = np.random.default_rng(1).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    picture = np.asarray(cv2.resize(small, (160, 120), interpolation=cv2.INTER_CUBIC), np.uint8)
    with load(tmp_path / "yolact.edge", backend="cpu") as model:
        found, spec = model(picture), model.manifest.preprocess
    stretched = cv2.cvtColor(cv2.resize(picture, (SIDE, SIDE)), cv2.COLOR_BGR2RGB).astype(np.float32)
    tensor = ((stretched - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32)).transpose(2, 0, 1)[None]
    raw = run(source.read_bytes(), tensor)
    boxes = corners(raw["loc"][0].astype(float), priors("YOLACT")) * [2.5, 1.875, 2.5, 1.875]
    assert found.mask is not None
    assert len(found) > 5
    overlaps: dict[str, list[float]] = {"logits": [], "sigmoid": []}
    for mask, box in zip(found.mask, found.xyxy, strict=True):
        limits = np.array([160, 120, 160, 120])
        row = int(np.abs(boxes.clip(0, limits) - box).max(axis=1).argmin())
        logits = raw["proto"][0] @ raw["mask"][0, row]
        x, y = np.arange(160) + 0.5, np.arange(120)[:, None] + 0.5
        inside = (x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3])
        for kind, plane, limit in (("logits", logits, 0.0), ("sigmoid", 1 / (1 + np.exp(-logits)), 0.5)):
            other = inside & (np.asarray(cv2.resize(plane, (160, 120), interpolation=cv2.INTER_LINEAR)) > limit)
            if other.sum() > 30:
                overlaps[kind].append(float((mask & other).sum() / (mask | other).sum()))
    assert len(overlaps["logits"]) > 3
    assert min(overlaps["logits"]) > 0.98
    assert np.mean(overlaps["sigmoid"]) > 0.9


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, ModelError, "give --priors FILE .* or --head scales="),
        ({"head": {"scales": "6,12"}}, UsageError, "scales are 5 positive numbers"),
        ({"head": {"scales": "6,12,24,48,x"}}, UsageError, "scales are 5 positive numbers"),
    ],
)
def test_priors_that_cannot_be_told_are_asked_for(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        prepare(yolact_model().SerializeToString(), ExportConfig(precision="fp32", **options))


def test_coefficients_without_a_tanh_are_not_yolacts() -> None:
    with pytest.raises(UnknownFamilyError, match=r"yolact: no: .*one that ends in a tanh"):
        prepare(yolact_model(tanh=False).SerializeToString(), SMALL)
