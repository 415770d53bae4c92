"""The manifest: round trips exactly, and refuses everything that it does not know."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevision.errors import BundleError
from edgevision.geometry import RESIZE_MODES
from edgevision.manifest import FileInfo, GraphInfo, Manifest, Nms, Preprocess
from tests.tiny_models import detector_manifest

level = st.floats(0, 1)
three = st.tuples(*[st.floats(-500, 500)] * 3)
text = st.text(st.characters(codec="utf-8"), max_size=12)

preprocesses = st.builds(
    Preprocess,
    input_name=text,
    input_wh=st.tuples(st.integers(1, 16384), st.integers(1, 16384)),
    layout=st.sampled_from(["nchw", "nhwc"]),
    resize=st.sampled_from(RESIZE_MODES),
    pad_value=st.floats(0, 255),
    color=st.sampled_from(["rgb", "bgr"]),
    mean=three,
    std=three.filter(lambda std: 0.0 not in std),
)
manifests = st.builds(
    Manifest,
    name=text,
    task=st.sampled_from(["detection", "keypoints"]),
    family=text,
    precision=st.sampled_from(["fp32", "fp16", "int8"]),
    labels=st.lists(text, max_size=5).map(tuple),
    preprocess=preprocesses,
    graphs=st.just({"model.onnx": GraphInfo("fp32"), "cpu.onnx": GraphInfo("int8", 12, 3)}),
    nms=st.builds(Nms, level, level, st.booleans(), st.booleans(), st.integers(1, 100_000)),
    cpu_graph=st.sampled_from(["model.onnx", "cpu.onnx"]),
    files=st.dictionaries(text, st.builds(FileInfo, st.integers(0), text), max_size=2),
)


@given(manifests, preprocesses)
@settings(max_examples=80, deadline=None)
def test_json_brings_it_back_unchanged(manifest: Manifest, own: Preprocess) -> None:
    own = dataclasses.replace(own, input_wh=manifest.preprocess.input_wh)
    manifest = dataclasses.replace(manifest, graphs={**manifest.graphs, "cpu.onnx": GraphInfo("int8", 3, 1, own)})
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest


def test_a_graph_has_the_manifests_input_or_its_own() -> None:
    own = Preprocess("picture", (64, 48), "nhwc", "uint8")
    graphs = {"model.onnx": GraphInfo("fp32"), "cpu.onnx": GraphInfo("int8", preprocess=own)}
    manifest = detector_manifest(graphs=graphs)
    assert manifest.preprocess_of("model.onnx") is manifest.preprocess
    assert manifest.preprocess_of("cpu.onnx") is own


def test_a_graph_of_another_input_size_is_refused() -> None:
    info = GraphInfo("fp32", preprocess=Preprocess("image", (64, 64)))
    with pytest.raises(BundleError, match=r"model.onnx takes \(64, 64\), the bundle \(64, 48\)"):
        detector_manifest(graphs={"model.onnx": info})


def plain() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(detector_manifest().to_json()))
    return data


def broken(*where: str, value: Any) -> dict[str, Any]:
    data = plain()
    inner = data
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    return data


@pytest.mark.parametrize("version", [None, 0, 2, "1", 1.5, [1]])
def test_other_versions_are_refused_with_a_way_out(version: Any) -> None:
    with pytest.raises(BundleError, match=r"format version .* expected 1; install the edgevision that wrote it"):
        Manifest.from_json(broken("format_version", value=version))


@pytest.mark.parametrize("data", [None, [], "manifest", 5])
def test_other_json_is_refused(data: Any) -> None:
    with pytest.raises(BundleError):
        Manifest.from_json(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (broken("colour", value="rgb"), r"manifest has unknown keys \['colour'\]"),
        (broken("preprocess", "men", value=[0, 0, 0]), r"manifest.preprocess has unknown keys \['men'\]"),
        (broken("name", value=5), "manifest.name should be"),
        (broken("name", value="\ud800"), "manifest.name should be"),
        (broken("labels", value="cat"), "manifest.labels should be"),
        (broken("labels", value=["cat", None]), r"manifest.labels\[1\] should be"),
        (broken("task", value="detect"), r"task is one of \('detection', .*, got 'detect'"),
        (broken("precision", value="int4"), "precision is one of"),
        (
            broken("nms", value=None),
            "nms is stated for detection, instance, keypoints, and only there; the task is detection",
        ),
        (broken("nms", "suppression", value="soft"), r"nms.suppression is one of \('greedy', 'none'\), got 'soft'"),
        (broken("nms", "iou_threshold", value=1.5), "nms.iou_threshold is in 0..1, got 1.5"),
        (broken("nms", "confidence", value=float("nan")), "nms.confidence is in 0..1"),
        (broken("nms", "confidence", value=True), "manifest.nms.confidence should be"),
        (broken("nms", "max_detections", value=0), "nms.max_detections is in 1..100000"),
        (broken("nms", "max_detections", value=3.0), "manifest.nms.max_detections should be"),
        (broken("graphs", value={}), "graphs must hold model.onnx"),
        (broken("graphs", "model.onnx", "precision", value="int2"), "a graph's precision is one of"),
        (broken("cpu_graph", value="cpu.onnx"), "graphs must hold model.onnx and cpu.onnx"),
        (broken("preprocess", "input_wh", value=[0, 5]), "input_wh has sides in 1..16384"),
        (broken("preprocess", "input_wh", value=[10**9, 5]), "input_wh has sides in 1..16384"),
        (broken("preprocess", "input_wh", value=[5]), "manifest.preprocess.input_wh should be"),
        (broken("preprocess", "std", value=[1, 0, 1]), "std is not zero"),
        (broken("preprocess", "mean", value=[float("inf"), 0, 1]), "finite"),
        (broken("preprocess", "mean", value=[10**400, 0, 1]), r"manifest.preprocess.mean\[0\] should be"),
        (broken("preprocess", "pad_value", value=300), "pad_value is a grey level in 0..255, got 300"),
        (broken("preprocess", "layout", value="chw"), r"layout is one of \('nchw', 'nhwc'\)"),
        (broken("preprocess", "dtype", value="float16"), "dtype is one of"),
        (broken("preprocess", "dtype", value="uint8"), "a uint8 input takes raw pixels"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(data: dict[str, Any], words: str) -> None:
    with pytest.raises(BundleError, match=words):
        Manifest.from_json(data)


@pytest.mark.parametrize("key", ["name", "task", "family", "precision", "labels", "preprocess", "graphs"])
def test_a_missing_key_is_named(key: str) -> None:
    data = plain()
    del data[key]
    with pytest.raises(BundleError, match=f"manifest is incomplete: .*'{key}'"):
        Manifest.from_json(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_value_anywhere_is_accepted_or_a_bundle_error(data: st.DataObject) -> None:
    manifest = copy.deepcopy(plain())
    inner, keys = manifest, list(manifest)
    while True:
        key = data.draw(st.sampled_from(keys))
        if isinstance(inner[key], dict) and inner[key] and data.draw(st.booleans()):
            inner = inner[key]
            keys = list(inner)
            continue
        inner[key] = data.draw(json_values)
        break
    try:
        accepted = Manifest.from_json(manifest)
    except BundleError:
        return
    assert Manifest.from_json(accepted.to_json()) == accepted
