"""A two-stage detector with TensorRT, over the stand-ins: the CPU's results. What a board's TensorRT makes of sizes
that depend on the picture is not known here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgevision
from edgevision.export import ExportConfig, export_model
from edgevision.results import Detections
from tests.export.test_rcnn import picture, two_stages
from tests.standins.tensorrt import Standin


@pytest.mark.parametrize("masks", ["", "raw"])
def test_tensorrt_is_given_the_float_graph_and_finds_what_the_cpu_finds(
    trt: Standin, tmp_path: Path, masks: str
) -> None:
    (tmp_path / "model.onnx").write_bytes(two_stages(masks=masks).SerializeToString())
    export_model(tmp_path / "model.onnx", tmp_path / "model.edge", ExportConfig(quiet=True))
    results = []
    for backend in ("cpu", "tensorrt"):
        with edgevision.load(tmp_path / "model.edge", backend=backend, quiet=True) as model:
            results.append([model(picture(seed)) for seed in range(3)])
            assert model.facts()["graph"] == "model.onnx"
            if backend == "tensorrt":
                assert model.facts()["notes"] == (["instance is finished on the CPU"] if masks else [])
    for one, other in zip(*results, strict=True):
        assert isinstance(one, Detections)
        assert isinstance(other, Detections)
        assert len(one)
        np.testing.assert_allclose(other.xyxy, one.xyxy, atol=1e-3)
        np.testing.assert_allclose(other.confidence, one.confidence, atol=1e-5)
        np.testing.assert_array_equal(other.class_id, one.class_id)
        if masks:
            assert one.mask is not None
            np.testing.assert_array_equal(other.mask, one.mask)
