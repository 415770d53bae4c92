"""Keypoints, masks and detections without suppression stay on the stand-in GPU: the CPU's results, copies counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import edgevision
from edgevision.backends.build_options import BuildOptions
from edgevision.bundle import write_bundle
from edgevision.kernels.cuda_masks import mask_bytes
from edgevision.manifest import GraphInfo, Nms
from edgevision.model import Model
from edgevision.results import Detections
from tests.device_models import noise
from tests.standins import cuda as standin
from tests.standins.tensorrt import Standin
from tests.tiny_models import CELL, cell_boxes, detector_manifest, model_bytes, value

INPUT_WH, LIMIT = (64, 64), 20
SIZES = [(64, 64), (200, 100), (33, 97), (320, 240), (1, 1)]


@pytest.fixture(params=["discrete", "integrated"])
def memory(request: pytest.FixtureRequest, trt: Standin, driver: standin.Driver) -> str:
    """Both ways a result takes to the host."""
    driver.set(integrated=int(request.param == "integrated"))
    kind: str = request.param
    return kind


def bundle(path: Path, form: str, batch: int | str = 1, prototypes: int = 3) -> Path:
    """A detector whose boxes are the cells grown by two pixels, with `form`'s further outputs.

    `points2` and `points3` are a cell's centre and corner, the third value its redness. Masks are sums of the input's
    channels at a quarter of its size, less a half each, with whole numbers below 4 as coefficients. `final` gives each
    cell's best class only.
    """
    width, height = INPUT_WH
    boxes = cell_boxes(INPUT_WH)[None] + np.array([-2, -2, 2, 2], np.float32)
    count, centres = boxes.shape[1], (boxes[..., :2] + boxes[..., 2:]) / 2
    random = np.random.default_rng(3)
    nodes = [
        helper.make_node("AveragePool", ["image"], ["pooled"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
        helper.make_node("Reshape", ["pooled", "three_rows"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["cell_scores"], perm=[0, 2, 1]),
        helper.make_node("ReduceMax", ["cell_scores", "last"], ["best_score"], keepdims=1),
        helper.make_node("Mul", ["best_score", "nothing"], ["nought"]),  # [b, n, 1]: constants for every picture
        helper.make_node("Add", ["nought", "cells"], ["boxes"]),
    ]
    constants: dict[str, Any] = {
        "three_rows": np.array([0, 3, -1]),
        "last": np.array([2]),
        "nothing": np.float32(0),
        "cells": boxes,
    }
    outputs = [value("boxes", [batch, count, 4])]
    if form == "final":
        nodes += [
            helper.make_node("Squeeze", ["best_score", "last"], ["scores"]),
            helper.make_node("ArgMax", ["cell_scores"], ["best"], axis=2, keepdims=0),
            helper.make_node("Cast", ["best"], ["class_ids"], to=TensorProto.INT32),
        ]
        outputs += [value("scores", [batch, count]), value("class_ids", [batch, count], TensorProto.INT32)]
    else:
        nodes.append(helper.make_node("Identity", ["cell_scores"], ["scores"]))
        outputs.append(value("scores", [batch, count, 3]))
    if form.startswith("points"):
        wide = int(form[-1])
        corner_and_centre = np.stack([centres, boxes[..., :2]], axis=2)  # (1, n, 2, 2)
        constants["places"] = np.concatenate([corner_and_centre, corner_and_centre[..., :1]], axis=3)[..., :wide]
        constants["weights"] = np.array([0, 0, 1], np.float32)[:wide]
        constants["fourth"] = np.array([3])
        nodes += [
            helper.make_node("Unsqueeze", ["best_score", "fourth"], ["confident"]),
            helper.make_node("Mul", ["confident", "weights"], ["weighted"]),
            helper.make_node("Add", ["weighted", "places"], ["keypoints"]),
        ]
        outputs.append(value("keypoints", [batch, count, 2, wide]))
    if form == "masks":
        constants |= {
            "numbers": random.integers(-3, 4, (1, count, prototypes)).astype(np.float32),
            "half": np.float32(0.5),
            "grid": np.float32(64),
            "mix": np.eye(3, dtype=np.float32)[np.arange(prototypes) % 3][:, :, None, None],
        }
        nodes += [
            helper.make_node("Add", ["nought", "numbers"], ["mask_coefficients"]),
            helper.make_node("AveragePool", ["image"], ["quarter"], kernel_shape=[4, 4], strides=[4, 4]),
            helper.make_node("Sub", ["quarter", "half"], ["centred"]),
            # On a grid, so that sums are exact in any order.
            helper.make_node("Mul", ["centred", "grid"], ["raised"]),
            helper.make_node("Round", ["raised"], ["whole"]),
            helper.make_node("Conv", ["whole", "mix"], ["mask_prototypes"]),
        ]
        outputs += [
            value("mask_coefficients", [batch, count, prototypes]),
            value("mask_prototypes", [batch, prototypes, height // 4, width // 4]),
        ]
    task = {"points2": "keypoints", "points3": "keypoints", "masks": "instance", "final": "detection"}[form]
    graph = model_bytes(nodes, [value("image", [batch, 3, height, width])], outputs, constants)
    manifest = detector_manifest(
        INPUT_WH,
        "letterbox",
        task=task,
        nms=Nms(0.3, 0.4, max_detections=LIMIT, suppression="none" if form == "final" else "greedy"),
        graphs={"model.onnx": GraphInfo("fp32", dynamic_batch=not isinstance(batch, int))},
    )
    write_bundle(path, manifest, {"model.onnx": graph})
    return path


def gpu(path: Path, **options: Any) -> Model:
    return edgevision.load(path, backend="tensorrt", quiet=True, **options)


def check_same(found: Any, wanted: Any) -> int:
    assert isinstance(found, Detections)
    for name in ("xyxy", "confidence", "class_id", "keypoints", "mask"):
        one, other = getattr(found, name), getattr(wanted, name)
        assert (one is None) == (other is None), name
        if one is not None:
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype, name
    return len(found)


FORMS = ["points2", "points3", "masks", "final"]


@pytest.mark.parametrize("form", FORMS)
def test_results_are_the_cpus_and_nothing_is_left_to_it(memory: str, tmp_path: Path, form: str) -> None:
    path, found = bundle(tmp_path / "m.edge", form), 0
    with gpu(path) as model, edgevision.load(path, backend="cpu") as cpu:
        for number, (width, height) in enumerate(SIZES * 2):
            picture = noise(width, height, number)
            found += check_same(model(picture), cpu(picture))
        nothing = np.zeros((50, 50, 3), np.uint8)
        assert check_same(model(nothing), cpu(nothing)) == 0
        facts = model.facts()
    assert found > 40
    assert facts["cuda_graph"]
    assert not facts["notes"]


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_of_pictures_of_different_sizes(memory: str, tmp_path: Path, form: str) -> None:
    path = bundle(tmp_path / "m.edge", form, "batch")
    pictures = [noise(width, height, i) for i, (width, height) in enumerate(SIZES)]
    one = bundle(tmp_path / "one.edge", form)
    build = BuildOptions("fp32", batch=(1, 4, 4))
    with gpu(path, build=build) as model, edgevision.load(one, backend="cpu") as cpu:
        wanted = [cpu(picture) for picture in pictures]
        for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 4, 1], [2], [4, 3, 2, 1, 0]):
            results = model.batch([pictures[i] for i in order])
            assert sum(check_same(result, wanted[i]) for result, i in zip(results, order, strict=True))


def test_masks_of_the_real_size_of_things(trt: Standin, tmp_path: Path) -> None:
    """Not all of a box, nor none of it: the masks say something."""
    path = bundle(tmp_path / "m.edge", "masks")
    with gpu(path) as model:
        found = model(noise(320, 240))
        assert isinstance(found, Detections)
        assert found.mask is not None
        share = found.mask.sum(axis=(1, 2)) / np.prod(found.xyxy[:, 2:] - found.xyxy[:, :2], axis=1)
    assert found.mask.shape == (LIMIT, 240, 320)
    assert ((share > 0.05) & (share < 0.95)).sum() > LIMIT // 4


@pytest.mark.parametrize("form", FORMS)
def test_only_what_was_found_crosses_to_the_host(
    memory: str, tmp_path: Path, driver: standin.Driver, form: str
) -> None:
    frames, picture = 5, noise(320, 240)
    with gpu(bundle(tmp_path / "m.edge", form), max_detections=7) as model:
        for _ in range(3):
            model(picture)
        before = driver.counters()
        for _ in range(frames):
            assert len(model(picture)) == 7
        after = driver.counters()
    got = {name: after[name] - before.get(name, 0) for name in after}
    masks = form == "masks"
    discrete = memory == "discrete"
    assert got["uploads"] == got["graph_launches"] == frames
    assert got.get("downloads", 0) == frames * discrete * (1 + masks)
    least = frames * discrete * masks * 7 * mask_bytes((320, 240))
    assert least <= got.get("download_bytes", 0) <= least + frames * discrete * 2048
    for nothing in ("pageable_copies", "device_copies", "allocations", "pinned_allocations"):
        assert got.get(nothing, 0) == 0, nothing


def test_one_graph_serves_every_picture_that_has_room(trt: Standin, tmp_path: Path, driver: standin.Driver) -> None:
    with gpu(bundle(tmp_path / "m.edge", "masks")) as model:
        for size in (64, 64, 32, 50, 200, 200, 64, 200):
            model(noise(size, size, size))
        assert driver.calls()["cuGraphInstantiateWithFlags"] == 2


def test_more_prototypes_than_the_kernel_holds_are_left_to_the_cpu_and_noted(trt: Standin, tmp_path: Path) -> None:
    path, picture = bundle(tmp_path / "m.edge", "masks", prototypes=257), noise(100, 80)
    with gpu(path) as model, edgevision.load(path, backend="cpu") as cpu:
        assert check_same(model(picture), cpu(picture))
        assert "instance is finished on the CPU" in str(model.facts()["notes"])


@pytest.mark.parametrize("form", ["points3", "masks"])
def test_memory_that_does_not_suffice_is_named_and_nothing_leaks(
    trt: Standin, tmp_path: Path, driver: standin.Driver, form: str
) -> None:
    """`trt` finds what is left behind."""
    path, picture = bundle(tmp_path / "m.edge", form), noise(100, 80)
    with gpu(path) as model:
        wanted = model(picture)
        for call in ("cuMemAlloc", "cuMemHostAlloc"):
            driver.fail(call)
            with pytest.raises(edgevision.EdgeVisionError, match=f"{call} failed"):
                model(noise(300, 200))
            driver.clear_faults()
            check_same(model(picture), wanted)
