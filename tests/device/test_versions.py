"""Real models through `edgevision build` and `run` with every version of TensorRT: the CPU's results.

The references run on ONNX Runtime: the graph that was built, with TensorRT's numerics, and the float graph. How far
these two lie apart on the same pictures is the graph's own error.
"""

from __future__ import annotations

import dataclasses
import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import edgevision
from edgevision import models
from edgevision.backends.onnx_lowering import lower
from edgevision.bundle import Bundle, write_bundle
from edgevision.cli import main
from edgevision.cuda import open_device
from edgevision.export import ExportConfig, export_model
from edgevision.geometry import box_iou
from edgevision.results import Detections, SegmentationMap
from edgevision.synthetic.dataset import write_dataset
from tests.standins import cuda as standin
from tests.standins.tensorrt import Standin, install, versions

FULL = tuple(version for version in versions() if not version.startswith("rtx"))
NAMES = ("aerial_detector", "aerial_segmenter", "ssd_mobilenet_v1_coco_raw")
COUNT = 2
IOU, SURE = 0.99, 0.5


@dataclasses.dataclass(frozen=True)
class Case:
    """A bundle, pictures for it, and what the CPU finds: with the graph built for TensorRT, and with the float one."""

    bundle: Path
    pictures: Path
    same_graph: dict[str, list[Any]]
    floating: list[Any]


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Callable[[str], Case]:
    """Cases by name, each exported once."""
    made: dict[str, Case] = {}

    def make(name: str) -> Case:
        if name not in made:
            made[name] = prepare(name, tmp_path_factory.mktemp(name), request)
        return made[name]

    return make


def prepare(name: str, folder: Path, request: pytest.FixtureRequest) -> Case:
    pictures = folder / "pictures"
    pictures.mkdir()
    if name in models.NAMES:
        source, options = models.path(name), dict[str, Any]()
        rendered = write_dataset(folder / "data", range(700, 704), 1, quiet=True).images
        calibration, shown = rendered, sorted(rendered.iterdir())[:COUNT]
    else:
        shared: Path = request.getfixturevalue("shared")
        source = shared / f"models/{name}.onnx"
        options = {"priors": shared / "models/ssd_mobilenet_v1_coco_anchors.npy", "labels": "coco90"}
        calibration = shared / "data/coco_calib"
        shown = [shared / "data/photos/bus.jpg", shared / "data/photos/kite_and_cold.jpg"]
    for path in shown:
        (pictures / path.name).write_bytes(path.read_bytes())
    bundle = folder / f"{name}.edge"
    images = str(calibration / "images") if (calibration / "images").is_dir() else str(calibration)
    export_model(
        source,
        bundle,
        ExportConfig(precision="int8", calibration_images=images, calibration_limit=8, quiet=True, **options),
    )
    images_read = [cv2.imread(str(path)) for path in sorted(pictures.iterdir())]
    lowered = lowered_bundle(bundle, folder / "lowered.edge")
    same_graph = {
        "int8": on_cpu(bundle, images_read, graph="tensorrt", precision="int8"),
        "fp16": on_cpu(bundle, images_read, graph="tensorrt", precision="fp16"),
        "int8 lowered": on_cpu(lowered, images_read, graph="tensorrt", precision="int8"),
    }
    return Case(bundle, pictures, same_graph, on_cpu(bundle, images_read, precision="fp32"))


def lowered_bundle(bundle: Path, path: Path) -> Path:
    """The bundle with its INT8 graph as TensorRT 8.6 is given it."""
    opened = Bundle(bundle)
    files = {name: opened.read(name) for name in opened.manifest.files}
    files["tensorrt.onnx"] = lower(files["tensorrt.onnx"], "tensorrt.onnx")
    write_bundle(path, dataclasses.replace(opened.manifest, files={}), files)
    return path


def on_cpu(bundle: Path, pictures: list[Any], **options: Any) -> list[Any]:
    with edgevision.load(bundle, backend="cpu", **options) as model:
        return [model(picture) for picture in pictures]


@pytest.fixture(params=FULL)
def version(request: pytest.FixtureRequest, driver: standin.Driver, home: Path) -> Iterator[Standin]:
    """Each version of TensorRT on the stand-in GPU."""
    with install(request.param) as installed:
        yield installed
    gc.collect()
    open_device().close()
    assert not installed.world.errors


def check(found: Any, reference: Any, rounded: Any, floating: Any) -> None:
    """Same classes, IoU of at least 0.99, scores within the precision's own error, which lies between the last two."""
    if isinstance(reference, SegmentationMap):
        own = (rounded.class_map != floating.class_map).mean()
        assert (found.class_map != reference.class_map).mean() <= own
        return
    own = max((abs(a - b) for a, b in matched(rounded, floating, SURE)), default=0.0)
    pairs = matched(found, reference, IOU)
    assert max((abs(a - b) for a, b in pairs), default=0.0) <= own
    # A box whose score is within the error of the threshold may be there or not.
    margin = float(reference.confidence.min(initial=1.0)) + own
    for one, other in ((found, reference), (reference, found)):
        clear = one[one.confidence > margin]
        assert len(matched(clear, other, IOU)) == len(clear)
    assert len(reference)


def matched(one: Detections, other: Detections, iou: float) -> list[tuple[float, float]]:
    """Confidences of boxes of one class that overlap by `iou`, each used once."""
    overlap = box_iou(one.xyxy, other.xyxy) * (one.class_id[:, None] == other.class_id)
    pairs = []
    for i in range(len(one)):
        j = int(overlap[i].argmax()) if len(other) else 0
        if len(other) and overlap[i, j] >= iou:
            pairs.append((float(one.confidence[i]), float(other.confidence[j])))
            overlap[:, j] = 0
    return pairs


@pytest.mark.parametrize("name", NAMES)
def test_build_and_run_give_the_cpus_results(
    version: Standin, case: Callable[[str], Case], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = case(name)
    built, ran, lines = (tmp_path / file for file in ("build.json", "run.json", "out.jsonl"))
    assert main(["build", str(given.bundle), "--quiet", "--json", str(built)]) == 0, capsys.readouterr().err
    facts = json.loads(built.read_text())
    assert facts["rung"] == "int8"
    assert facts["convolutions"]["int8"] == facts["convolutions"]["promised"] > 0
    arguments = ["run", str(given.bundle), str(given.pictures), "--sink", str(lines), "--quiet", "--json", str(ran)]
    assert main(arguments) == 0, capsys.readouterr().err
    report = json.loads(ran.read_text())
    assert report["frames"] == {"captured": COUNT, "processed": COUNT, "dropped": {}}
    assert report["lanes"] == 2
    assert (report["model"]["backend"], report["model"]["rung"]) == ("tensorrt", "int8")
    assert len(version.world.builds) == 1  # `run` took what `build` had put into the cache

    reference = given.same_graph["int8 lowered" if version.version.startswith("8.") else "int8"]
    with edgevision.load(given.bundle, quiet=True) as model:
        assert model.backend == "tensorrt"
        for number, path in enumerate(sorted(given.pictures.iterdir())):
            found = model(cv2.imread(str(path)))
            check(found, reference[number], reference[number], given.floating[number])
            record = json.loads(lines.read_text().splitlines()[number])
            if isinstance(found, Detections):
                assert [entry["class_id"] for entry in record["detections"]] == found.class_id.tolist()
                assert np.allclose([e["xyxy"] for e in record["detections"]], found.xyxy, atol=0.01)


@pytest.mark.parametrize("version", ["8.6.1", "11.4.0.106"], indirect=True)
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_gives_the_cpus_results(version: Standin, case: Callable[[str], Case], name: str) -> None:
    """Weakly typed from the float graph, and strongly typed from its own."""
    given = case(name)
    with edgevision.load(given.bundle, backend="tensorrt", precision="fp16", quiet=True) as model:
        assert model.precision == "fp16"
        weakly = version.version.startswith("8.")
        assert model.graph_name == ("model.onnx" if weakly else "tensorrt_fp16.onnx")
        for number, path in enumerate(sorted(given.pictures.iterdir())):
            rounded, floating = given.same_graph["fp16"][number], given.floating[number]
            check(model(cv2.imread(str(path))), floating if weakly else rounded, rounded, floating)
