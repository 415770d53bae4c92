"""A model on the stand-in GPU: the CPU's results, one upload a frame, nothing allocated, graphs where they can be."""

from __future__ import annotations

import dataclasses
import gc
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgevision
from edgevision.backends.build_options import BuildOptions
from edgevision.bundle import write_bundle
from edgevision.cuda import open_device
from edgevision.errors import BuildError, BundleError, DeviceError, SessionError, UsageError
from edgevision.frame import DevicePicture, Frame
from edgevision.kernels.cpu_nv12 import nv12_picture
from edgevision.kernels.fixed_point import bgr_from_nv12
from edgevision.manifest import GraphInfo, Nms
from edgevision.model import Model
from edgevision.nv12 import NV12_FORMATS
from edgevision.results import Detections, SegmentationMap
from tests.device_models import batch_bundle, noise, painted
from tests.standins import cuda as standin
from tests.standins.tensorrt import Standin
from tests.tiny_models import colour_detector, detector_bundle, detector_manifest, segmenter_bundle

SIZES = [(640, 480), (64, 64), (33, 97), (1, 1), (1280, 720)]


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    return detector_bundle(tmp_path / "detector.edge", (64, 64), "letterbox")


@pytest.fixture(params=["discrete", "integrated"])
def memory(request: pytest.FixtureRequest, trt: Standin, driver: standin.Driver) -> str:
    """Both ways a result takes to the host."""
    driver.set(integrated=int(request.param == "integrated"))
    kind: str = request.param
    return kind


def gpu(path: Path, **options: Any) -> Model:
    return edgevision.load(path, backend="tensorrt", quiet=True, **options)


def same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, SegmentationMap):
        np.testing.assert_array_equal(one.class_map, other.class_map)
        assert one.class_map.dtype == other.class_map.dtype
    else:
        for name in ("xyxy", "confidence", "class_id"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
            assert getattr(one, name).dtype == getattr(other, name).dtype
    assert one.names == other.names


class TestResults:
    def test_detections_are_the_cpus(self, memory: str, detector: Path) -> None:
        with gpu(detector, confidence=0.4) as model, edgevision.load(detector, backend="cpu", confidence=0.4) as cpu:
            for number, (width, height) in enumerate(SIZES * 2):
                picture = noise(width, height, number)
                same(model(picture), cpu(picture))

    @pytest.mark.parametrize("form", ["class_map", "logits"])
    def test_class_maps_are_the_cpus(self, memory: str, tmp_path: Path, form: str) -> None:
        path = segmenter_bundle(tmp_path / "m.edge", (64, 48), "letterbox", form)
        with gpu(path) as model, edgevision.load(path, backend="cpu") as cpu:
            for number, (width, height) in enumerate(SIZES * 2):
                picture = noise(width, height, number)
                same(model(picture), cpu(picture))

    def test_settings_are_the_callers(self, trt: Standin, detector: Path) -> None:
        picture = noise(320, 320)
        for options in (
            {"confidence": {"red": 0.3, "blue": 0.9}},
            {"classes": ["green"]},
            {"max_detections": 3, "confidence": 0.2},
        ):
            with gpu(detector, **options) as model, edgevision.load(detector, backend="cpu", **options) as cpu:
                found = model(picture)
                same(found, cpu(picture))
                assert len(found)

    def test_results_stay_when_the_model_is_called_again(self, memory: str, detector: Path) -> None:
        with gpu(detector) as model:
            first = model(painted(64, 64, ("red", 8, 8, 16, 16)))
            assert isinstance(first, Detections)
            before = first.xyxy.copy()
            model(painted(64, 64, ("blue", 32, 32, 48, 48)))
            np.testing.assert_array_equal(first.xyxy, before)

    def test_a_frame_is_as_good_as_its_picture(self, trt: Standin, detector: Path) -> None:
        picture = noise(100, 60)
        with gpu(detector) as model:
            same(model(Frame(picture)), model(picture))

    def test_pictures_that_are_views_of_others(self, trt: Standin, detector: Path) -> None:
        whole = noise(300, 200)
        part = whole[20:150:2, ::-1]
        with gpu(detector) as model:
            same(model(part), model(np.ascontiguousarray(part)))

    @pytest.mark.parametrize(
        ("suppression", "task"),
        [("greedy", "keypoints"), ("none", "detection"), ("greedy", "instance"), ("none", "instance")],
    )
    def test_the_other_tasks_with_boxes(self, trt: Standin, tmp_path: Path, suppression: str, task: str) -> None:
        path = other_task(tmp_path, suppression, task)
        with gpu(path) as model, edgevision.load(path, backend="cpu") as cpu:
            for number in range(3):
                picture = noise(200, 100, number)
                found, wanted = model(picture), cpu(picture)
                same(found, wanted)
                assert len(found)
                if task == "keypoints":
                    np.testing.assert_array_equal(found.keypoints, wanted.keypoints)
                if task == "instance":
                    np.testing.assert_array_equal(found.mask, wanted.mask)
                    assert wanted.mask.any()
        assert not model.facts()["notes"]


def other_task(folder: Path, suppression: str, task: str) -> Path:
    """A bundle whose detector also gives the centre or a mask of each cell, or only each cell's best class."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = onnx.load_from_string(colour_detector())
    if task == "keypoints":
        cells = numpy_helper.to_array(next(t for t in graph.graph.initializer if t.name == "cells"))
        centres = ((cells[..., :2] + cells[..., 2:]) / 2)[:, :, None]
        graph.graph.initializer.append(numpy_helper.from_array(centres.astype(np.float32), "centres"))
        graph.graph.node.append(helper.make_node("Identity", ["centres"], ["keypoints"]))
        graph.graph.output.append(helper.make_tensor_value_info("keypoints", TensorProto.FLOAT, centres.shape))
    extras: list[Any] = []
    if task == "instance":
        rows, random = graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value, np.random.default_rng(0)
        for name, shape in (("mask_coefficients", (1, rows, 4)), ("mask_prototypes", (1, 4, 12, 16))):
            numbers = random.normal(size=shape).astype(np.float32)
            graph.graph.initializer.append(numpy_helper.from_array(numbers, f"constant_{name}"))
            graph.graph.node.append(helper.make_node("Identity", [f"constant_{name}"], [name]))
            extras.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    if suppression == "none":
        for node in graph.graph.node:
            node.output[:] = ["all_scores" if name == "scores" else name for name in node.output]
        graph.graph.initializer.append(numpy_helper.from_array(np.array([2]), "last"))
        graph.graph.node.extend(
            [
                helper.make_node("ReduceMax", ["all_scores", "last"], ["scores"], keepdims=0),
                helper.make_node("ArgMax", ["all_scores"], ["best"], axis=2, keepdims=0),
                helper.make_node("Cast", ["best"], ["class_ids"], to=TensorProto.INT32),
            ]
        )
        rows = graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value
        del graph.graph.output[1:]
        graph.graph.output.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, rows]))
        graph.graph.output.append(helper.make_tensor_value_info("class_ids", TensorProto.INT32, [1, rows]))
        graph.opset_import[0].version = 18
        graph.ir_version = 8
    graph.graph.output.extend(extras)
    manifest = detector_manifest(task=task, nms=Nms(0.5, 0.4, suppression=suppression))
    path = folder / "m.edge"
    write_bundle(path, manifest, {"model.onnx": graph.SerializeToString()})
    return path


class TestZeroCopy:
    """Counted by the driver, not by us."""

    @pytest.fixture
    def warm(self, memory: str, detector: Path, driver: standin.Driver) -> Iterator[Model]:
        with gpu(detector) as model:
            for _ in range(3):
                model(noise(640, 480))
            yield model

    def test_one_upload_of_the_pixels_and_one_small_result(
        self, warm: Model, memory: str, driver: standin.Driver
    ) -> None:
        before, frames, picture = driver.counters(), 10, noise(640, 480)
        for _ in range(frames):
            warm(picture)
        after = driver.counters()
        got = {name: after.get(name, 0) - before.get(name, 0) for name in after}
        copied = {name: got.get(name, 0) for name in ("uploads", "upload_bytes", "downloads", "download_bytes")}
        result_bytes = 0 if memory == "integrated" else copied["download_bytes"]
        assert copied == {
            "uploads": frames,
            "upload_bytes": frames * picture.nbytes,
            "downloads": 0 if memory == "integrated" else frames,
            "download_bytes": result_bytes,
        }
        assert result_bytes <= frames * 300 * (4 * 4 + 4 + 4 + 4) * 1.2  # the most detections, no tensor
        for nothing in ("pageable_copies", "device_copies", "blocking_calls", "allocations", "pinned_allocations"):
            assert got.get(nothing, 0) == 0, nothing
        assert got["graph_launches"] == frames

    @pytest.mark.parametrize("pixel_format", NV12_FORMATS)
    def test_pictures_in_nv12_are_uploaded_as_they_are(
        self, warm: Model, detector: Path, driver: standin.Driver, pixel_format: str
    ) -> None:
        planes = np.random.default_rng(5).integers(16, 236, (720, 640), dtype=np.uint8)
        picture = nv12_picture(planes, pixel_format)
        exact = bgr_from_nv12(planes[:480], planes[480:].reshape(240, 320, 2), pixel_format)
        with edgevision.load(detector, backend="cpu") as cpu:
            wanted = cpu(exact)
        same(warm(Frame(picture)), wanted)
        before = driver.counters()
        for _ in range(5):
            same(warm(Frame(picture)), wanted)
        after = driver.counters()
        assert after["uploads"] - before["uploads"] == 5
        assert after["upload_bytes"] - before["upload_bytes"] == 5 * 640 * 480 * 3 // 2
        assert after["graph_launches"] - before["graph_launches"] == 5

    def test_a_picture_on_the_device_is_not_copied_at_all(
        self, warm: Model, memory: str, driver: standin.Driver
    ) -> None:
        picture = noise(640, 480)
        wanted = warm(picture)
        device = open_device()
        with on_device(picture) as held:
            warm(held)  # its geometry is another
            before = driver.counters()
            for _ in range(5):
                same(warm(Frame(held)), wanted)
            after = driver.counters()
        assert after.get("uploads", 0) == before.get("uploads", 0)
        assert device.counters.uploads >= 1

    def test_one_wait_per_frame(self, warm: Model, driver: standin.Driver) -> None:
        before = driver.calls()
        for _ in range(10):
            warm(noise(640, 480))
        after = driver.calls()
        waits = {
            name: after[name] - before.get(name, 0)
            for name in after
            if "Synchronize" in name and after[name] != before.get(name, 0)
        }
        assert waits == {"cuEventSynchronize": 10}


PICTURES = [noise(width, height, i) for i, (width, height) in enumerate([(64, 64), (640, 480), (1, 1), (90, 300)])]


class on_device:  # noqa: N801  reads as a function
    """A picture in the stand-in GPU's memory, rows padded to 64 bytes."""

    def __init__(self, picture: np.ndarray) -> None:
        self._picture = picture

    def __enter__(self) -> DevicePicture:
        device, stream = open_device(), open_device().stream()
        height, width = self._picture.shape[:2]
        pitch = -(-3 * width // 64) * 64
        rows = device.pinned((height, pitch), np.uint8)
        rows.array[:, : 3 * width] = self._picture.reshape(height, -1)
        self._buffer = device.allocate(height * pitch)
        device.upload(self._buffer.address, rows.array, stream)
        stream.synchronize()
        stream.close()
        rows.close()
        return DevicePicture(
            self._buffer.address, (width, height), "bgr", pitch, lambda: self._picture, owner=self._buffer
        )

    def __exit__(self, *_: object) -> None:
        self._buffer.close()


def own_bytes() -> int:
    """Traced memory that the package holds. (The stand-in's ONNX Runtime holds some more each time.)"""
    gc.collect()
    snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/edgevision/*")])
    return sum(statistic.size for statistic in snapshot.statistics("filename"))


class TestMemory:
    def test_20000_frames_leave_memory_flat(self, trt: Standin, tmp_path: Path, driver: standin.Driver) -> None:
        """Host blocks by tracemalloc, device memory by the driver; sizes change, results are kept for a while. A
        classifier, because its results need no emulated kernel."""
        path, kept = classifier(tmp_path / "m.edge"), list[Any]()
        pictures = [noise(width, height) for width, height in ((32, 24), (24, 32), (16, 16))]
        with gpu(path) as model:

            def run(frames: int) -> None:
                for i in range(frames):
                    kept[i % 4 : i % 4 + 1] = [model(pictures[i % 3])]

            run(1000)
            before = driver.counters()
            tracemalloc.start()
            run(100)
            first = own_bytes()
            tracemalloc.stop()
            run(18_800)
            tracemalloc.start()
            run(100)
            last = own_bytes()
            tracemalloc.stop()
            after = driver.counters()
        assert last <= first + 256
        for name in ("allocations", "pinned_allocations", "streams_created", "events_created"):
            assert after.get(name, 0) == before.get(name, 0), name
        live = [name for name in after if name.startswith("live_")]
        assert {name: after[name] for name in live} == {name: before[name] for name in live}

    def test_a_frame_allocates_its_result_and_little_else(self, trt: Standin, detector: Path) -> None:
        """On the hot loop: no block as large as a picture (900 kB) or the input tensor (49 kB), and nothing stays."""
        picture = noise(640, 480)
        with gpu(detector, confidence=0.99) as model:
            for _ in range(5):
                model(picture)
            tracemalloc.start()
            for _ in range(20):
                model(picture)
            first = own_bytes()
            gc.collect()
            base = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            for _ in range(100):
                model(picture)
            peak = tracemalloc.get_traced_memory()[1]
            last = own_bytes()
            tracemalloc.stop()
        assert last <= first + 256
        assert peak - base < 20_000


def classifier(path: Path) -> Path:
    """A bundle that says how red, green and blue a picture is."""
    from onnx import helper

    from tests.tiny_models import model_bytes, value

    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["scores"]),
    ]
    graph = model_bytes(nodes, [value("image", [1, 3, 16, 16])], [value("scores", [1, 3])])
    manifest = detector_manifest((16, 16), "letterbox", task="classification", nms=None)
    write_bundle(path, manifest, {"model.onnx": graph})
    return path


class TestGraphs:
    def test_it_is_captured_once_and_serves_every_size(
        self, trt: Standin, detector: Path, driver: standin.Driver
    ) -> None:
        with gpu(detector) as model:
            for width, height in [(640, 480), (640, 480), (320, 240), (100, 600), (640, 480)]:
                model(noise(width, height))
            calls = driver.calls()
            assert calls["cuStreamBeginCapture"] == calls["cuGraphInstantiateWithFlags"] == 1
            assert driver.count("graph_launches") == 4
            assert model.facts()["cuda_graph"]

    def test_a_larger_class_map_is_captured_anew(self, trt: Standin, tmp_path: Path, driver: standin.Driver) -> None:
        """Its result lies elsewhere then; smaller ones have room."""
        path = segmenter_bundle(tmp_path / "m.edge")
        with gpu(path) as model, edgevision.load(path, backend="cpu") as cpu:
            for size in (64, 64, 32, 200, 200, 64, 200):
                picture = noise(size, size, size)
                same(model(picture), cpu(picture))
            assert driver.calls()["cuGraphInstantiateWithFlags"] == 2

    def test_refused_by_tensorrt_it_runs_without(
        self, trt: Standin, detector: Path, driver: standin.Driver, caplog: pytest.LogCaptureFixture
    ) -> None:
        trt.world.refuse_capture = True
        with gpu(detector) as model, edgevision.load(detector, backend="cpu") as cpu:
            for number in range(4):
                same(model(noise(100, 80, number)), cpu(noise(100, 80, number)))
            facts = model.facts()
        assert not facts["cuda_graph"]
        assert len([note for note in facts["notes"] if "no CUDA graph" in note]) == 1
        assert caplog.text.count("no CUDA graph") == 1
        assert driver.take_complaints() == ["cuStreamSynchronize: called during a capture"]

    @pytest.mark.parametrize("call", ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiateWithFlags"])
    def test_refused_by_the_driver_it_runs_without(
        self, trt: Standin, detector: Path, driver: standin.Driver, call: str
    ) -> None:
        with gpu(detector) as model, edgevision.load(detector, backend="cpu") as cpu:
            model(noise(64, 64))
            driver.fail(call, times=-1, code=standin.NOT_PERMITTED)
            for number in range(3):
                same(model(noise(100, 80, number)), cpu(noise(100, 80, number)))
            driver.clear_faults()
            assert call in model.facts()["notes"][-1]
        driver.take_complaints()


class TestBatches:
    def check(self, path: Path, batch: tuple[int, int, int], counts: list[int]) -> None:
        build = BuildOptions("fp32", batch=batch)
        with gpu(path, build=build, confidence=0.4) as model:
            one = detector_bundle(path.with_name("one.edge"), (64, 64), "letterbox")
            with edgevision.load(one, backend="cpu", confidence=0.4) as cpu:
                for start, count in enumerate(counts):
                    pictures = [PICTURES[(start + i) % 4] for i in range(count)]
                    found = model.batch(pictures)
                    assert len(found) == count
                    for result, picture in zip(found, pictures, strict=True):
                        same(result, cpu(picture))

    def test_any_number_up_to_the_engines(self, memory: str, tmp_path: Path) -> None:
        self.check(batch_bundle(tmp_path / "m.edge", "n"), (1, 2, 4), [1, 4, 4, 4, 2, 2, 2, 3, 1, 1, 4])

    def test_more_than_the_engines_are_split(self, trt: Standin, tmp_path: Path) -> None:
        self.check(batch_bundle(tmp_path / "m.edge", "n"), (1, 2, 2), [5, 7, 0])

    def test_fewer_than_the_engine_takes(self, trt: Standin, tmp_path: Path) -> None:
        self.check(batch_bundle(tmp_path / "m.edge", "n"), (3, 3, 3), [1, 1, 3, 2, 2])

    def test_a_graph_of_fixed_batch(self, memory: str, tmp_path: Path) -> None:
        self.check(batch_bundle(tmp_path / "m.edge", 4), (4, 4, 4), [4, 1, 1, 3, 4])

    def test_class_maps_of_several_sizes(self, memory: str, tmp_path: Path) -> None:
        import onnx

        path = segmenter_bundle(tmp_path / "one.edge")
        bundle = edgevision.Bundle(path)
        graph = onnx.load_from_string(bundle.read("model.onnx"))
        for tensor in (*graph.graph.input, *graph.graph.output):
            tensor.type.tensor_type.shape.dim[0].dim_param = "n"
        graphs = {"model.onnx": GraphInfo("fp32", dynamic_batch=True)}
        many = tmp_path / "many.edge"
        manifest = dataclasses.replace(bundle.manifest, graphs=graphs, files={})
        write_bundle(many, manifest, {"model.onnx": graph.SerializeToString()})
        build = BuildOptions("fp32", batch=(1, 3, 3))
        with gpu(many, build=build) as model, edgevision.load(path, backend="cpu") as cpu:
            for count in (3, 3, 1, 2, 3):
                pictures = PICTURES[:count]
                for result, picture in zip(model.batch(pictures), pictures, strict=True):
                    same(result, cpu(picture))

    def test_one_upload_per_picture(self, trt: Standin, tmp_path: Path, driver: standin.Driver) -> None:
        path = batch_bundle(tmp_path / "m.edge", "n")
        with gpu(path, build=BuildOptions("fp32", batch=(1, 4, 4))) as model:
            for _ in range(3):
                model.batch(PICTURES)
            before = driver.counters()
            model.batch(PICTURES)
            after = driver.counters()
        assert after["uploads"] - before["uploads"] == 4
        assert after["downloads"] - before["downloads"] == 1
        assert after["graph_launches"] - before["graph_launches"] == 1


class TestLanes:
    def test_two_lanes_share_one_engine(self, trt: Standin, detector: Path) -> None:
        with gpu(detector) as model, edgevision.load(detector, backend="cpu") as cpu:
            assert model.lanes() == 2
            results: dict[int, list[Any]] = {}

            def work(index: int) -> None:
                lane = model.open_lane()
                results[index] = [lane(noise(100, 80, index + i)) for i in range(20)]
                lane.close()

            threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            for index in range(4):
                for i in range(20):
                    same(results[index][i], cpu(noise(100, 80, index + i)))
        assert len(trt.world.builds) == 1

    def test_a_lane_outlives_its_model(self, trt: Standin, detector: Path) -> None:
        with gpu(detector) as model:
            lane = model.open_lane()
            wanted = model(noise(100, 80))
        same(lane(noise(100, 80)), wanted)
        lane.close()
        lane.close()
        with pytest.raises(SessionError, match="this lane is closed"):
            lane(noise(100, 80))
        with pytest.raises(SessionError, match="this model is closed"):
            model.open_lane()
        model.close()

    def test_stage_times_are_the_gpus(self, trt: Standin, detector: Path) -> None:
        with gpu(detector) as model:
            for _ in range(3):
                model(noise(100, 80))
                assert set(model.timing_ms) == {"preprocess", "inference", "postprocess"}
                assert all(value >= 0 for value in model.timing_ms.values())

    def test_what_does_not_fit_is_refused(self, trt: Standin, detector: Path, tmp_path: Path) -> None:
        with gpu(detector) as model:
            with pytest.raises(UsageError, match="a picture is"):
                model(np.zeros((4, 4), np.uint8))
            model._lane.perturb = lambda tensor: tensor
            with pytest.raises(UsageError, match="use backend cpu"):
                model(noise(8, 8))
        wrong = tmp_path / "wrong.edge"
        write_bundle(wrong, detector_manifest((64, 48), labels=("one", "two")), {"model.onnx": colour_detector()})
        with pytest.raises(BundleError, match="not in normal form"):
            gpu(wrong)


class TestChoice:
    def test_auto_takes_the_gpu_and_says_so(self, trt: Standin, detector: Path) -> None:
        with edgevision.load(detector, quiet=True) as model:
            assert (model.backend, model.backend_reason) == ("tensorrt", "TensorRT 10.3.0 finds stand-in GPU")
            assert model.facts()["gpu"] == "stand-in GPU (SM 87)"

    def test_without_a_gpu_auto_takes_the_cpu_and_says_why(
        self, trt: Standin, driver: standin.Driver, detector: Path
    ) -> None:
        driver.set(devices=0)
        with edgevision.load(detector) as model:
            assert model.backend == "cpu"
            assert "no GPU" in model.backend_reason
        with pytest.raises(DeviceError, match="no GPU"):
            gpu(detector)
        driver.set(devices=1)

    def test_no_memory_is_said(self, trt: Standin, driver: standin.Driver, detector: Path) -> None:
        with gpu(detector):  # the plan is built
            pass
        driver.set(total_bytes=1 << 16)
        with pytest.raises((DeviceError, SessionError), match="memory"):
            gpu(detector)

    def test_a_build_that_fails_everywhere_is_an_error(self, trt: Standin, detector: Path) -> None:
        trt.world.build_error = "the moon is full"
        with pytest.raises(BuildError, match="the moon is full"):
            gpu(detector)
