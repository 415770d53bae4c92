"""Masks by kernels of their own (RTMDet-Ins) on the stand-in GPU: finished on the host, and the CPU's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import edgevision
from edgevision.export import ExportConfig, export_model
from tests.device_models import noise
from tests.export.test_rtmdet_ins import rtmdet_ins_model
from tests.standins.tensorrt import Standin


def test_masks_are_the_cpus(trt: Standin, tmp_path: Path) -> None:
    source, bundle = tmp_path / "ins.onnx", tmp_path / "ins.edge"
    source.write_bytes(rtmdet_ins_model().SerializeToString())
    export_model(source, bundle, ExportConfig(precision="fp32", confidence=0.6, quiet=True))
    with (
        edgevision.load(bundle, backend="tensorrt", quiet=True) as model,
        edgevision.load(bundle, backend="cpu") as cpu,
    ):
        assert "instance is finished on the CPU" in str(model.facts())
        picture = noise(200, 120)
        found, expected = model(picture), cpu(picture)
        assert len(found) > 3
        np.testing.assert_array_equal(found.xyxy, expected.xyxy)
        np.testing.assert_array_equal(found.mask, expected.mask)
    assert not trt.world.errors
