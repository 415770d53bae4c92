"""A network of one channel on the stand-in GPU: the CPU's results, from pictures in colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import edgevision
from edgevision.export import ExportConfig, export_model
from tests.device_models import noise
from tests.export.builders import ultralytics_metadata, yolov8_model
from tests.export.test_grey import grey
from tests.standins.tensorrt import Standin


def test_a_grey_network_gives_the_cpus_detections(trt: Standin, tmp_path: Path) -> None:
    source, bundle = tmp_path / "grey.onnx", tmp_path / "grey.edge"
    source.write_bytes(grey(yolov8_model(metadata=ultralytics_metadata(channels="1"))).SerializeToString())
    export_model(source, bundle, ExportConfig(precision="fp32", quiet=True))
    with (
        edgevision.load(bundle, backend="tensorrt", quiet=True) as model,
        edgevision.load(bundle, backend="cpu") as cpu,
    ):
        for number, (width, height) in enumerate([(640, 480), (33, 97), (96, 64)]):
            picture = noise(width, height, number)
            found, expected = model(picture), cpu(picture)
            assert len(found) > 3
            np.testing.assert_array_equal(found.xyxy, expected.xyxy)
            np.testing.assert_array_equal(found.confidence, expected.confidence)
    assert not trt.world.errors
