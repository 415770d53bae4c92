"""The training scripts train: views keep boxes on their objects, losses fall, exports match, runs repeat."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from edgevision.export import ExportConfig, PreparedModel, prepare
from edgevision.synthetic import DETECTION_CLASSES, SEGMENTATION_CLASSES

ROOT = Path(__file__).resolve().parents[2]
TRAINING = ROOT / "examples" / "training"

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason='training needs torch, which `pip install "edgevision[train]"` brings',
)


Import = Callable[[str], Any]


@pytest.fixture(scope="module")
def scripts() -> Iterator[Import]:
    """Import a module of examples/training by name, the way its scripts do; names as plain as `data` leave no trace."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TRAINING))
        yield importlib.import_module
    for name in {path.stem for path in TRAINING.glob("*.py")} - before:
        sys.modules.pop(name, None)


def prepared_without_flags(path: Path) -> PreparedModel:
    """What an export makes of a trained file, whose metadata must say all that is needed."""
    onnx.checker.check_model(onnx.load(path), full_check=True)
    return prepare(path, ExportConfig(precision="fp32"))


def train(model: str, output: Path, cache: Path) -> dict[str, Any]:
    """A training that is over in seconds: its report."""
    tiny = {"scenes": 1, "frames-per-scene": 4, "epochs": 6, "batch": 4, "held-out-scenes": 1, "threads": 1}
    flags = [f"--{name}={value}" for name, value in tiny.items()]
    subprocess.run(
        [sys.executable, str(TRAINING / "train.py"), model, "--output", str(output), "--cache", str(cache), *flags],
        check=True, capture_output=True, timeout=200, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return dict(json.loads((output / f"aerial_{model}.json").read_text()))


@pytest.mark.parametrize("seed", range(8))
def test_a_view_moves_boxes_with_their_pixels(scripts: Import, seed: int) -> None:
    augment = scripts("augment")
    rng = np.random.default_rng(seed)
    width, height = 320, 288
    view = augment.random_view(rng, (width, height))
    x0, y0 = rng.integers(20, 200, 2)
    x1, y1 = (x0, y0) + rng.integers(30, 80, 2)
    image = np.zeros((height, width, 3), np.uint8)
    image[y0:y1, x0:x1] = 255
    box = np.array([[x0 / width, y0 / height, x1 / width, y1 / height]], np.float32)

    seen = augment.warp_image(image, view, labels=False)[..., 0] > 127
    moved, kept = augment.warp_boxes(box, view, (width, height))

    if kept[0]:
        rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
        edges = [columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height]
        np.testing.assert_allclose(moved[0], edges, atol=1.0 / height)
    else:
        assert seen.sum() < 0.5 * (x1 - x0) * (y1 - y0) * view[0, 0] ** 2


@pytest.mark.parametrize("seed", range(8))
def test_a_view_moves_classes_with_their_pixels_and_invents_none(scripts: Import, seed: int) -> None:
    augment = scripts("augment")
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 7, (9, 16)).astype(np.uint8).repeat(32, axis=0).repeat(32, axis=1)
    view = augment.random_view(rng, (512, 288))
    classes = augment.warp_image(blocks, view, labels=True)
    image = augment.warp_image(np.stack([blocks * 30] * 3, axis=-1), view, labels=False)
    assert set(np.unique(classes)) <= set(range(7))
    # The picture is interpolated across the edges of blocks, which touch few pixels.
    assert np.mean(image[..., 0] == classes * 30) > 0.85


def test_light_changes_grey_levels_but_never_their_order(scripts: Import) -> None:
    ramp = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    for seed in range(8):
        lit = scripts("augment").random_light(np.random.default_rng(seed), ramp).astype(int)
        assert (np.diff(lit, axis=1) >= 0).all()
        assert (lit != ramp).any()


def test_no_scene_is_both_trained_on_and_held_out(scripts: Import) -> None:
    data = scripts("data")
    assert not set(data.TRAINING_SEEDS) & set(data.HELD_OUT_SEEDS)
    assert list(data.HELD_OUT_SEEDS) == list(range(10_000, 10_040))


@needs_torch
def test_priors_lie_map_by_map_row_by_row_cell_by_cell(scripts: Import) -> None:
    strides, sizes = (8, 16), (((10, 12), (8, 19)), ((14, 24),))
    wanted = []
    for stride, shapes in zip(strides, sizes, strict=True):
        for row in range(32 // stride):
            for column in range(64 // stride):
                for width, height in shapes:
                    cx, cy = (column + 0.5) * stride, (row + 0.5) * stride
                    wanted.append([cx / 64, cy / 32, width / 64, height / 32])
    priors = scripts("detector").make_priors((64, 32), strides, sizes)
    np.testing.assert_allclose(priors.numpy(), wanted, rtol=1e-6)


@needs_torch
def test_one_prior_decodes_as_the_paper_says(scripts: Import) -> None:
    """SSD's coder by hand: centre = prior centre + 0.1 t of its size, extent = prior extent times e^(0.2 t)."""
    import torch

    offsets = torch.tensor([[1.0, -2.0, 5 * math.log(2), 5 * math.log(0.5)]])
    prior = torch.tensor([[0.5, 0.4, 0.2, 0.1]])
    cx, cy, width, height = 0.5 + 0.1 * 0.2, 0.4 - 0.2 * 0.1, 0.4, 0.05
    wanted = torch.tensor([[cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2]])
    torch.testing.assert_close(scripts("detector").decode(offsets, prior), wanted)


@needs_torch
def test_decoding_undoes_encoding(scripts: Import) -> None:
    import torch

    detector = scripts("detector")
    priors = detector.make_priors()
    corners = torch.rand(len(priors), 2, 2, generator=torch.Generator().manual_seed(0)).sort(dim=1).values
    boxes = corners.reshape(-1, 4)
    boxes[:, 2:] += 0.01
    torch.testing.assert_close(detector.decode(detector.encode(boxes, priors), priors), boxes, atol=1e-5, rtol=0)


@needs_torch
def test_the_evaluation_finds_the_boxes_that_were_encoded(scripts: Import) -> None:
    import torch

    detector, evaluate = scripts("detector"), scripts("evaluate")
    priors = torch.tensor([[0.2, 0.2, 0.1, 0.1], [0.5, 0.5, 0.2, 0.2], [0.8, 0.8, 0.1, 0.2], [0.5, 0.5, 0.2, 0.2]])
    boxes = torch.tensor([[0.1, 0.1, 0.3, 0.2], [0.4, 0.4, 0.6, 0.7], [0.7, 0.7, 0.9, 0.9], [0.4, 0.4, 0.6, 0.7]])
    logits = np.full((4, 4), -20.0, np.float32)
    # Rows 1 and 3 are the same box: of one class the better one stays, of two classes both do.
    logits[[0, 1, 2, 3, 3], [0, 1, 2, 1, 3]] = [0.0, 2.0, 1.0, 1.5, -1.0]
    xyxy, confidence, class_id = evaluate.decode_detections(
        logits, detector.encode(boxes, priors).numpy(), priors.numpy()
    )
    order = np.argsort(class_id)
    assert class_id[order].tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(xyxy[order], boxes[[0, 1, 2, 3]].numpy() * [1280, 720, 1280, 720], rtol=1e-4)
    np.testing.assert_allclose(confidence[order], 1 / (1 + np.exp([0.0, -2.0, -1.0, 1.0])), rtol=1e-5)


@needs_torch
def test_every_object_gets_priors_and_no_prior_two_objects(scripts: Import) -> None:
    import torch

    detector, losses = scripts("detector"), scripts("losses")
    centres = torch.rand(20, 2, generator=torch.Generator().manual_seed(1)) * 0.8 + 0.1
    halves = torch.tensor([[0.01, 0.02], [0.04, 0.05], [0.1, 0.1], [0.03, 0.09]]).repeat(5, 1)
    chosen, owner = losses.assign(torch.cat([centres - halves, centres + halves], dim=1), detector.make_priors())
    assert len(set(chosen.tolist())) == len(chosen)
    assert set(owner.tolist()) == set(range(20))


@needs_torch
@pytest.mark.parametrize("stride", [1, 2])
def test_a_depthwise_convolution_is_the_same_in_training(scripts: Import, stride: int) -> None:
    import torch

    torch.manual_seed(0)
    layer = scripts("layers").Depthwise(8, 3, stride)
    maps = torch.randn(2, 8, 12, 10)
    results = []
    for training in (True, False):
        layer.train(training).zero_grad()
        result = layer(maps)
        result.square().sum().backward()
        results.append((result.detach(), layer.weight.grad.clone()))
    for trained, deployed in zip(*results, strict=True):
        torch.testing.assert_close(trained, deployed)


@needs_torch
@pytest.mark.parametrize("name", ["Detector", "Segmenter"])
def test_the_exported_file_computes_what_the_network_does(scripts: Import, tmp_path: Path, name: str) -> None:
    import torch

    torch.manual_seed(0)
    network = getattr(scripts(name.lower()), name)()
    path = tmp_path / "network.onnx"
    scripts("export_onnx").export_onnx(network, path, {"note": "untrained"})

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).uniform(-1, 1, session.get_inputs()[0].shape).astype(np.float32)
    outputs = session.run(None, {"image": image})
    with torch.no_grad():
        wanted = network(torch.from_numpy(image))
    wanted = [*wanted, network.priors] if name == "Detector" else [wanted]
    for output, tensor in zip(outputs, wanted, strict=True):
        np.testing.assert_allclose(output, tensor.numpy(), atol=1e-4)
    assert json.loads(session.get_modelmeta().custom_metadata_map["edgevision"])["note"] == "untrained"


@needs_torch
def test_losses_are_least_where_the_answer_is_right(scripts: Import) -> None:
    import torch

    detector, losses = scripts("detector"), scripts("losses")
    priors, boxes = detector.make_priors(), torch.tensor([[0.2, 0.3, 0.25, 0.4], [0.6, 0.6, 0.66, 0.72]])
    class_ids = torch.tensor([0, 2])
    chosen, owner = losses.assign(boxes, priors)
    right_offsets, right_scores = torch.zeros(1, len(priors), 4), torch.full((1, len(priors), 4), -12.0)
    right_offsets[0, chosen] = detector.encode(boxes[owner], priors[chosen])
    right_scores[0, chosen, class_ids[owner]] = 12.0

    def loss(scores: Any, offsets: Any) -> list[float]:
        return [float(part) for part in losses.detection_loss(scores, offsets, priors, [boxes], [class_ids])]

    assert loss(right_scores, right_offsets) == pytest.approx([0.0, 0.0], abs=1e-3)
    assert loss(right_scores.roll(1, dims=2), right_offsets)[0] > 1
    assert loss(right_scores, right_offsets + 3)[1] > 0.1

    classes = torch.arange(7).repeat(1, 8, 8)
    right = torch.nn.functional.one_hot(classes, 7).permute(0, 3, 1, 2) * 20.0
    weights = torch.ones(7)
    assert float(losses.segmentation_loss(right, classes, weights)) == pytest.approx(0.0, abs=1e-3)
    assert float(losses.segmentation_loss(right.roll(1, dims=1), classes, weights)) > 1


@pytest.fixture(scope="module")
def segmenter_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The output folder, which also holds the rendered frames, and the report of a short training."""
    output = tmp_path_factory.mktemp("segmenter")
    return output, train("segmenter", output, output)


@needs_torch
def test_a_short_training_lowers_the_segmenters_loss_and_gives_a_model_that_exports(
    segmenter_run: tuple[Path, dict[str, Any]],
) -> None:
    output, report = segmenter_run
    assert report["loss"][-1] < 0.9 * report["loss"][0]
    assert 0 <= report["score"]["miou"] <= 1
    assert report["parameters"] <= 1_200_000
    model = prepared_without_flags(output / "aerial_segmenter.onnx")
    assert (model.family, model.task, model.labels) == ("semantic", "semantic", SEGMENTATION_CLASSES)


@needs_torch
def test_a_training_repeats_exactly(segmenter_run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    first, report = segmenter_run
    again = train("segmenter", tmp_path, first)
    assert (again["loss"], again["score"]) == (report["loss"], report["score"])
    name = "aerial_segmenter.onnx"
    assert (tmp_path / name).read_bytes() == (first / name).read_bytes()


@needs_torch
def test_a_short_training_lowers_the_detectors_loss_and_gives_a_model_that_exports(tmp_path: Path) -> None:
    report = train("detector", tmp_path, tmp_path)
    assert report["loss"][-1] < 0.95 * report["loss"][0]
    assert 0 <= report["score"]["map_50"] <= 1
    assert report["parameters"] <= 1_500_000
    model = prepared_without_flags(tmp_path / "aerial_detector.onnx")
    assert (model.family, model.task, model.labels) == ("ssd", "detection", DETECTION_CLASSES)
