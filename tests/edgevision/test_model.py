"""A bundle called with pictures, end to end on ONNX Runtime."""

from __future__ import annotations

import dataclasses
import gc
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
from numpy.typing import NDArray

import edgevision
from edgevision.bundle import Bundle, write_bundle
from edgevision.errors import BundleError, SessionError, UsageError
from edgevision.frame import Frame
from edgevision.manifest import GraphInfo, Manifest, Nms, Preprocess
from edgevision.model import Model, choose_graph
from edgevision.results import Detections, SegmentationMap
from tests.tiny_models import (
    biased_segmenter,
    colour_detector,
    colour_segmenter,
    detector_bundle,
    detector_manifest,
    segmenter_bundle,
)

BGR = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0)}


def painted(width: int, height: int, *rectangles: tuple[str, int, int, int, int]) -> NDArray[np.uint8]:
    """A black picture with rectangles (colour, x1, y1, x2, y2)."""
    image = np.zeros((height, width, 3), np.uint8)
    for colour, x1, y1, x2, y2 in rectangles:
        image[y1:y2, x1:x2] = BGR[colour]
    return image


def found(result: Any) -> list[tuple[str, list[float]]]:
    assert isinstance(result, Detections)
    return sorted((result.name(i), result.xyxy[i].tolist()) for i in range(len(result)))


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    return detector_bundle(tmp_path / "colours.edge")


class TestDetection:
    def test_boxes_are_in_pixels_of_the_picture_given(self, detector: Path) -> None:
        image = painted(640, 480, ("red", 80, 160, 160, 240), ("blue", 400, 0, 480, 80))
        with edgevision.load(detector) as model:
            assert found(model(image)) == [("blue", [400, 0, 480, 80]), ("red", [80, 160, 160, 240])]

    def test_letterboxed_pictures_too(self, tmp_path: Path) -> None:
        path = detector_bundle(tmp_path / "m.edge", (64, 64), "letterbox")
        image = painted(640, 320, ("green", 160, 80, 240, 160), ("red", 560, 240, 640, 320))
        with edgevision.load(path) as model:
            assert found(model(image)) == [("green", [160, 80, 240, 160]), ("red", [560, 240, 640, 320])]

    def test_a_frame_is_as_good_as_its_picture(self, detector: Path) -> None:
        image = painted(64, 48, ("red", 8, 8, 16, 16))
        with edgevision.load(detector) as model:
            assert found(model(Frame(image))) == found(model(image)) == [("red", [8, 8, 16, 16])]

    def test_pictures_of_changing_sizes(self, detector: Path) -> None:
        with edgevision.load(detector) as model:
            for scale in (10, 3, 1, 10, 7):
                image = painted(64 * scale, 48 * scale, ("blue", 8 * scale, 16 * scale, 16 * scale, 24 * scale))
                assert found(model(image)) == [("blue", [8 * scale, 16 * scale, 16 * scale, 24 * scale])]

    def test_results_stay_when_the_model_is_called_again(self, detector: Path) -> None:
        with edgevision.load(detector) as model:
            first = model(painted(64, 48, ("red", 8, 8, 16, 16)))
            model(painted(64, 48, ("blue", 32, 32, 48, 48)))
        assert found(first) == [("red", [8, 8, 16, 16])]

    def test_settings(self, detector: Path) -> None:
        image = painted(64, 48, ("red", 0, 0, 8, 8), ("green", 8, 0, 16, 8), ("blue", 16, 0, 24, 8))
        image[16:24, 0:8] = (0, 0, 153)  # red, 0.6
        names = {
            "default": {"red": 2, "green": 1, "blue": 1},
            "confidence": {"red": 1, "green": 1, "blue": 1},
            "per class": {"red": 1, "green": 1, "blue": 1},
            "classes": {"blue": 1},
            "max_detections": {"red": 1, "green": 1},
        }
        settings: dict[str, dict[str, Any]] = {
            "default": {},
            "confidence": {"confidence": 0.7},
            "per class": {"confidence": {"red": 0.7}},
            "classes": {"classes": ["blue"]},
            "max_detections": {"max_detections": 2},
        }
        for name, options in settings.items():
            with edgevision.load(detector, **options) as model:
                labels = [label for label, _ in found(model(image))]
            assert {label: labels.count(label) for label in labels} == names[name], name

    def test_the_iou_setting(self, tmp_path: Path) -> None:
        """Two cells made to overlap by a third."""
        graph = onnx.load_from_string(colour_detector())
        cells = next(t for t in graph.graph.initializer if t.name == "cells")
        boxes = onnx.numpy_helper.to_array(cells).copy()
        boxes[0, 1] = boxes[0, 0] + [4, 0, 4, 0]
        cells.CopyFrom(onnx.numpy_helper.from_array(boxes, "cells"))
        path = tmp_path / "m.edge"
        write_bundle(path, detector_manifest(), {"model.onnx": graph.SerializeToString()})
        image = painted(64, 48, ("red", 0, 0, 16, 8))
        for iou, count in ((0.5, 2), (0.3, 1)):
            with edgevision.load(path, iou=iou) as model:
                assert len(found(model(image))) == count


class TestSegmentation:
    @pytest.mark.parametrize("form", ["class_map", "logits"])
    def test_every_source_pixel_gets_its_class(self, tmp_path: Path, form: str) -> None:
        path = segmenter_bundle(tmp_path / "m.edge", form=form)
        image = painted(640, 480, ("green", 0, 0, 640, 480), ("blue", 320, 0, 640, 240), ("red", 0, 240, 640, 480))
        with edgevision.load(path) as model:
            result = model(image)
        assert isinstance(result, SegmentationMap)
        assert (result.class_map.shape, result.class_map.dtype) == ((480, 640), np.uint8)
        expected = image[:, :, ::-1].argmax(axis=2)
        if form == "logits":
            # Bilinear upsampling: cells blend into each other by up to half a cell, 40 source pixels.
            inside = np.ones((480, 640), bool)
            inside[200:280], inside[:, 280:360] = False, False
            np.testing.assert_array_equal(result.class_map[inside], expected[inside])
        else:
            np.testing.assert_array_equal(result.class_map, expected)
        assert result.fractions() == pytest.approx({"red": 0.5, "green": 0.25, "blue": 0.25}, abs=0.01)

    def test_a_letterboxed_picture_without_its_padding(self, tmp_path: Path) -> None:
        path = segmenter_bundle(tmp_path / "m.edge", (64, 64), "letterbox")
        image = painted(320, 160, ("blue", 0, 0, 320, 160))
        with edgevision.load(path) as model:
            result = model(image)
        assert isinstance(result, SegmentationMap)
        assert result.fractions() == {"blue": 1.0}

    def test_agrees_with_a_direct_run_of_a_real_segmenter(self, shared: Path, tmp_path: Path) -> None:
        """DeepLabv3 on a photograph: OpenCV, numpy and ONNX Runtime called directly give the same classes."""
        graph = (shared / "models" / "deeplabv3_mnv2_voc_513.onnx").read_bytes()
        manifest = Manifest(
            name="deeplab",
            task="semantic",
            family="semantic",
            precision="fp32",
            labels=tuple(f"class {i}" for i in range(21)),
            preprocess=Preprocess("image", (513, 513), mean=(128.0,) * 3, std=(128.0,) * 3),
            graphs={"model.onnx": GraphInfo("fp32")},
        )
        write_bundle(tmp_path / "m.edge", manifest, {"model.onnx": graph})
        direct = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        image = cv2.imread(str(shared / "data" / "photos" / "bus.jpg"))
        small = cv2.cvtColor(cv2.resize(image, (513, 513)), cv2.COLOR_BGR2RGB)
        tensor = ((small.astype(np.float32) - 128) / 128).transpose(2, 0, 1)[None]
        classes = direct.run(None, {"image": tensor})[0][0].argmax(axis=0).astype(np.uint8)
        expected = cv2.resize(classes, image.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        with edgevision.load(tmp_path / "m.edge") as model:
            result = model(image)
        assert isinstance(result, SegmentationMap)
        assert len(np.unique(expected)) > 2
        assert (result.class_map == expected).mean() > 0.9999

    def test_agrees_with_a_direct_run_of_a_real_detector(self, shared: Path, tmp_path: Path) -> None:
        """UltraFace gives decoded boxes in 0..1 and soft-maxed scores: two nodes make that the normal form."""
        model = onnx.load(shared / "models" / "ultraface_rfb_320.onnx")
        while len(model.graph.input) > 1:  # an old exporter listed the weights as inputs
            model.graph.input.pop()
        direct = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        scores = next(output for output in model.graph.output if output.name == "scores")
        size = np.array([320, 240, 320, 240], np.float32)
        for node in model.graph.node:
            node.output[:] = [f"raw_{name}" if name in ("scores", "boxes") else name for name in node.output]
            node.input[:] = [f"raw_{name}" if name in ("scores", "boxes") else name for name in node.input]
        model.graph.initializer.append(onnx.numpy_helper.from_array(size, "size"))
        model.graph.node.extend(
            [
                onnx.helper.make_node("Mul", ["raw_boxes", "size"], ["boxes"]),
                onnx.helper.make_node("Slice", ["raw_scores"], ["scores"], axes=[2], starts=[1], ends=[2]),  # opset 9
            ]
        )
        scores.type.tensor_type.shape.dim[2].dim_value = 1
        del model.graph.value_info[:]
        name = model.graph.input[0].name
        manifest = Manifest(
            name="faces",
            task="detection",
            family="test",
            precision="fp32",
            labels=("face",),
            preprocess=Preprocess(name, (320, 240), mean=(127.0,) * 3, std=(128.0,) * 3),
            graphs={"model.onnx": GraphInfo("fp32")},
            nms=Nms(iou_threshold=0.3, confidence=0.7),
        )
        write_bundle(tmp_path / "m.edge", manifest, {"model.onnx": model.SerializeToString()})
        image = cv2.imread(str(shared / "data" / "photos" / "face.jpg"))
        height, width = image.shape[:2]
        small = cv2.cvtColor(cv2.resize(image, (320, 240)), cv2.COLOR_BGR2RGB).astype(np.float32)
        tensor = ((small - 127) / 128).transpose(2, 0, 1)[None]
        confidence, corners = direct.run(["scores", "boxes"], {name: tensor})
        corners = corners[0] * [width, height, width, height]
        xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        kept = cv2.dnn.NMSBoxes(xywh.tolist(), confidence[0, :, 1].tolist(), 0.7, 0.3)
        with edgevision.load(tmp_path / "m.edge") as loaded:
            result = loaded(image)
        assert isinstance(result, Detections)
        assert len(result) == len(kept) == 4  # what the folder's README says of this picture
        expected = np.clip(corners[kept], 0, [width, height, width, height])
        np.testing.assert_allclose(result.xyxy, expected, atol=0.05)
        np.testing.assert_allclose(result.confidence, confidence[0, kept, 1], atol=1e-4)


class TestLanes:
    def test_timing_names_the_stages(self, detector: Path) -> None:
        with edgevision.load(detector) as model:
            assert model.timing_ms == {}
            model(painted(64, 48))
            assert list(model.timing_ms) == ["preprocess", "inference", "postprocess"]
            assert all(0 < value < 1000 for value in model.timing_ms.values())

    def test_lanes_work_side_by_side_and_a_model_may_be_shared(self, detector: Path) -> None:
        pictures = [painted(64, 48, ("red", 8 * i, 8, 8 * i + 8, 16)) for i in range(4)]
        wrong: list[int] = []
        with edgevision.load(detector, threads=1) as model:
            workers = [model.open_lane(), model.open_lane(), model, model]

            def work(number: int) -> None:
                for _ in range(100):
                    if found(workers[number](pictures[number])) != [("red", [8 * number, 8, 8 * number + 8, 16])]:
                        wrong.append(number)  # noqa: PERF401

            threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(timeout=60)
        assert not wrong

    def test_a_lane_outlives_its_model_until_it_is_closed(self, detector: Path) -> None:
        model = edgevision.load(detector)
        lane = model.open_lane()
        model.close()
        model.close()
        image = painted(64, 48, ("red", 8, 8, 16, 16))
        assert len(found(lane(image))) == 1
        lane.close()
        for use in (lambda: lane(image), lambda: model(image), model.open_lane):
            with pytest.raises(SessionError, match="closed"):
                use()

    def test_memory_stays_flat(self, detector: Path) -> None:
        process = psutil.Process()
        random = np.random.default_rng(0)
        pictures = [random.integers(0, 256, (h, w, 3), dtype=np.uint8) for w, h in ((320, 240), (1280, 720), (97, 301))]
        with edgevision.load(detector, confidence=0.0) as model:
            sizes = []
            for _ in range(4):
                for number in range(100):
                    model(pictures[number % 3])
                gc.collect()
                sizes.append(process.memory_info().rss)
        assert sizes[-1] - sizes[1] < 4 << 20, sizes

    def test_opening_and_closing_leaks_nothing(self, detector: Path) -> None:
        process = psutil.Process()
        sizes = []
        for number in range(60):
            with edgevision.load(detector) as model:
                model(painted(64, 48))
            if number % 20 == 19:
                gc.collect()
                sizes.append(process.memory_info().rss)
        assert sizes[-1] - sizes[0] < 8 << 20, sizes
        assert process.num_threads() < 50

    @pytest.mark.parametrize("threads", [0, -1])
    def test_fewer_threads_than_one_are_refused(self, detector: Path, threads: int) -> None:
        with pytest.raises(UsageError, match="threads is at least 1"):
            edgevision.load(detector, threads=threads)


class TestRefusals:
    @pytest.mark.parametrize("image", [None, "photo.jpg", np.zeros((48, 64), np.uint8), np.zeros((0, 64, 3), np.uint8)])
    def test_what_is_not_a_picture(self, detector: Path, image: Any) -> None:
        with edgevision.load(detector) as model:
            with pytest.raises(UsageError, match="picture"):
                model(image)
            assert len(found(model(painted(64, 48, ("red", 8, 8, 16, 16))))) == 1

    def test_settings_out_of_range(self, detector: Path) -> None:
        with pytest.raises(UsageError, match=r"confidence is a number in 0..1"):
            edgevision.load(detector, confidence=2)

    def test_a_graph_that_is_none(self, tmp_path: Path) -> None:
        write_bundle(tmp_path / "m.edge", detector_manifest(), {"model.onnx": b"not a graph"})
        with pytest.raises(SessionError, match="refuses the graph"):
            edgevision.load(tmp_path / "m.edge")

    @pytest.mark.parametrize(
        "preprocess",
        [
            {"input_name": "images"},
            {"input_wh": (48, 64)},
            {"layout": "nhwc"},
            {"dtype": "uint8", "std": (1.0,) * 3},
        ],
    )
    def test_a_graph_whose_input_is_not_the_manifests(self, tmp_path: Path, preprocess: dict[str, Any]) -> None:
        manifest = detector_manifest()
        manifest = dataclasses.replace(manifest, preprocess=dataclasses.replace(manifest.preprocess, **preprocess))
        write_bundle(tmp_path / "m.edge", manifest, {"model.onnx": colour_detector()})
        with pytest.raises(BundleError, match=r"inputs do not fit its manifest: expected .* got .*'image'"):
            edgevision.load(tmp_path / "m.edge")

    def test_labels_of_another_number(self, tmp_path: Path) -> None:
        write_bundle(tmp_path / "m.edge", detector_manifest(labels=("red", "green")), {"model.onnx": colour_detector()})
        with pytest.raises(BundleError, match="one column per label"):
            edgevision.load(tmp_path / "m.edge")

    def test_a_task_that_the_graph_does_not_do(self, tmp_path: Path) -> None:
        write_bundle(tmp_path / "m.edge", detector_manifest(), {"model.onnx": colour_segmenter()})
        with pytest.raises(BundleError, match=r"not in normal form: expected boxes .* got class_map uint8"):
            edgevision.load(tmp_path / "m.edge")


def manifest_with(**precisions: str) -> Manifest:
    graphs = {f"{name}.onnx": GraphInfo(precision) for name, precision in precisions.items()}
    return detector_manifest(graphs=graphs, cpu_graph="cpu.onnx" if "cpu" in precisions else "model.onnx")


INT8 = manifest_with(model="fp32", cpu="int8", tensorrt="int8", tensorrt_fp16="fp16")
FLOAT_ON_CPU = manifest_with(model="fp32", tensorrt="int8", tensorrt_fp16="fp16")
FP16 = manifest_with(model="fp32", tensorrt="fp16")


@pytest.mark.parametrize(
    ("manifest", "precision", "graph", "expected"),
    [
        (INT8, None, "auto", "cpu.onnx"),
        (INT8, None, "cpu", "cpu.onnx"),
        (INT8, None, "tensorrt", "tensorrt.onnx"),
        (INT8, "fp32", "auto", "model.onnx"),
        (INT8, "fp32", "cpu", "model.onnx"),
        (INT8, "int8", "auto", "cpu.onnx"),
        (INT8, "int8", "cpu", "cpu.onnx"),
        (INT8, "int8", "tensorrt", "tensorrt.onnx"),
        (INT8, "fp16", "auto", "tensorrt_fp16.onnx"),
        (INT8, "fp16", "tensorrt", "tensorrt_fp16.onnx"),
        (INT8, "fp16", "cpu", None),
        (INT8, "fp32", "tensorrt", None),
        (FLOAT_ON_CPU, None, "auto", "model.onnx"),
        (FLOAT_ON_CPU, "int8", "auto", "tensorrt.onnx"),
        (FLOAT_ON_CPU, "int8", "cpu", None),
        (FP16, "fp16", "auto", "tensorrt.onnx"),
        (FP16, None, "tensorrt", "tensorrt.onnx"),
        (FP16, "int8", "auto", None),
        (FP16, "int4", "auto", None),
        (FP16, None, "gpu", None),
    ],
)
def test_the_graph_is_chosen_by_precision_and_kind(
    manifest: Manifest, precision: str | None, graph: str, expected: str | None
) -> None:
    if expected is None:
        with pytest.raises(UsageError, match=r"it holds model.onnx \(fp32\)|is one of"):
            choose_graph(manifest, precision, graph)
    else:
        assert choose_graph(manifest, precision, graph) == expected


def test_the_chosen_graph_runs_and_is_named(tmp_path: Path) -> None:
    manifest = manifest_with(model="fp32", cpu="int8")
    swapped = onnx.load_from_string(colour_detector())
    cells = next(t for t in swapped.graph.initializer if t.name == "cells")
    cells.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(cells) / 2, "cells"))
    files = {"model.onnx": colour_detector(), "cpu.onnx": swapped.SerializeToString()}
    write_bundle(tmp_path / "m.edge", manifest, files)
    image = painted(64, 48, ("red", 16, 16, 24, 24))
    for precision, name, box in ((None, "cpu.onnx", [8, 8, 12, 12]), ("fp32", "model.onnx", [16, 16, 24, 24])):
        with Model(Bundle(tmp_path / "m.edge"), precision=precision) as model:
            assert model.graph_name == name
            assert found(model(image)) == [("red", box)]


def test_a_graph_is_fed_as_its_own_entry_says(tmp_path: Path) -> None:
    """uint8 pixels in OpenCV's order, which the graph itself brings into the form of the float one."""
    graph = onnx.load_from_string(colour_detector())
    name = graph.graph.input[0].name
    for node in graph.graph.node:
        node.input[:] = ["normalised" if source == name else source for source in node.input]
    steps = [
        onnx.helper.make_node("Gather", [name, "rgb"], ["ordered"], axis=3),
        onnx.helper.make_node("Transpose", ["ordered"], ["planes"], perm=[0, 3, 1, 2]),
        onnx.helper.make_node("Cast", ["planes"], ["levels"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Div", ["levels", "white"], ["normalised"]),
    ]
    nodes = [*steps, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    constants = {"rgb": np.array([2, 1, 0]), "white": np.float32(255)}
    graph.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    graph.graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, [1, 48, 64, 3]))
    own = Preprocess(name, (64, 48), "nhwc", "uint8", color="bgr")
    graphs = {"model.onnx": GraphInfo("fp32"), "cpu.onnx": GraphInfo("int8", preprocess=own)}
    files = {"model.onnx": colour_detector(), "cpu.onnx": graph.SerializeToString()}
    write_bundle(tmp_path / "m.edge", detector_manifest(graphs=graphs, cpu_graph="cpu.onnx"), files)
    image = painted(640, 480, ("red", 80, 160, 160, 240), ("blue", 400, 0, 480, 80))
    for precision in ("int8", "fp32"):
        with edgevision.load(tmp_path / "m.edge", precision=precision) as model:
            assert found(model(image)) == [("blue", [400, 0, 480, 80]), ("red", [80, 160, 160, 240])]


def test_tensorrts_graph_runs_with_its_own_numerics(tmp_path: Path) -> None:
    """As written, not in ONNX Runtime's integer kernels, which lose what this graph decides by."""
    manifest = detector_manifest(
        task="semantic",
        nms=None,
        graphs={"model.onnx": GraphInfo("fp32"), "tensorrt.onnx": GraphInfo("int8")},
    )
    files = {"model.onnx": colour_segmenter(form="logits"), "tensorrt.onnx": biased_segmenter()}
    write_bundle(tmp_path / "m.edge", manifest, files)
    for options in ({"graph": "tensorrt"}, {"precision": "int8"}):
        with edgevision.load(tmp_path / "m.edge", **options) as model:
            assert model.graph_name == "tensorrt.onnx"
            result = model(painted(64, 48))
            assert isinstance(result, SegmentationMap)
            assert result.fractions() == {"green": 1.0}
