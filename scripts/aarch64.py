"""The parts of scripts/test-aarch64 that are Python: what both machines work on, and whether they agree.

prepare FOLDER: the shipped detector as a float and an INT8 bundle, and two clips of the synthetic camera. `exact.mkv`
is lossless and has the network's size, so both machines see the same bits. `h264.mkv` is what a camera delivers: its
pictures are converted from YUV and resized by code that rounds differently on each architecture.
compare FOLDER NAME: NAME.here.jsonl against NAME.aarch64.jsonl.
"""

from __future__ import annotations

import json
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from edgevision import models
from edgevision.bundle import Bundle
from edgevision.export import ExportConfig, export_model
from edgevision.synthetic import AerialScene
from edgevision.synthetic.dataset import write_dataset

_SEED = 30_000
_CALIBRATION_SCENES = 8
# What may differ: (confidence, pixels between corners). JSON lines round to 4 and 2 digits.
_FLOAT_NOISE = (2e-4, 0.02)
# Two grey levels of another YUV conversion, or one step of an INT8 grid, move boxes and tip those near the threshold.
_SURE, _LEAST_IOU, _CONFIDENCE_SHIFT = 0.45, 0.8, 0.1


def prepare(folder: Path) -> None:
    """Write the bundles and the clips."""
    source = models.path("aerial_detector")
    pictures = write_dataset(folder / "pictures", range(20_000, 20_000 + _CALIBRATION_SCENES), 2, quiet=True)
    export_model(source, folder / "fp32.edge", ExportConfig(precision="fp32", quiet=True))
    export_model(source, folder / "int8.edge", ExportConfig(calibration_images=pictures.images, quiet=True))
    quantised = Bundle(folder / "int8.edge").manifest
    print(f"int8.edge runs {quantised.cpu_graph}: {quantised.cpu_graph_reason}")
    scene = AerialScene(_SEED)
    frames = [scene.render(index).image for index in range(0, 40, 10)]
    size = Bundle(folder / "fp32.edge").manifest.preprocess.input_wh
    small = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames]
    _write_clip(folder / "exact.mkv", small, "ffv1", "bgr0")
    _write_clip(folder / "h264.mkv", frames[:2], "libx264", "yuv420p")


def _write_clip(path: Path, frames: list[NDArray[np.uint8]], codec: str, pixel_format: str) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(10))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="bgr24")))
        container.mux(stream.encode(None))


def compare(folder: Path, name: str) -> str:
    """What agrees, in words.

    Raises:
        SystemExit: the two machines do not see the same.
    """
    here, there = (
        [json.loads(line)["detections"] for line in (folder / f"{name}.{machine}.jsonl").read_text().splitlines()]
        for machine in ("here", "aarch64")
    )
    if len(here) != len(there) or not any(here):
        raise SystemExit(f"{name}: {len(here)} frames here, {len(there)} on aarch64, {sum(map(len, here))} detections")
    judge = _same if name == "exact" else _alike
    return f"{name}: {len(here)} frames, {sum(map(len, here))} detections, {judge(here, there)}"


Frames = list[list[dict[str, Any]]]


def _same(here: Frames, there: Frames) -> str:
    """Every detection has its twin, in order, within float noise."""
    worst = np.zeros(2)
    for number, (left, right) in enumerate(zip(here, there, strict=True)):
        if [entry["class_id"] for entry in left] != [entry["class_id"] for entry in right]:
            raise SystemExit(f"frame {number}: here {left}\non aarch64 {right}")
        for a, b in zip(left, right, strict=True):
            off = (abs(a["confidence"] - b["confidence"]), float(np.abs(np.subtract(a["xyxy"], b["xyxy"])).max()))
            worst = np.maximum(worst, off)
    if (worst > _FLOAT_NOISE).any():
        raise SystemExit(f"detections differ by up to {worst[0]:.4f} in confidence and {worst[1]:.2f} px")
    return f"the same within {worst[0]:.4f} in confidence and {worst[1]:.2f} px"


def _alike(here: Frames, there: Frames) -> str:
    """Every sure detection of each machine is seen by the other."""
    compared = 0
    for number, (left, right) in enumerate(zip(here, there, strict=True)):
        for ours, others in ((left, right), (right, left)):
            for entry in (entry for entry in ours if entry["confidence"] >= _SURE):
                compared += 1
                if not any(_match(entry, other) for other in others):
                    raise SystemExit(f"frame {number}: {entry} has no counterpart among {others}")
    return f"all {compared} sure ones of either machine seen by the other"


def _match(a: dict[str, Any], b: dict[str, Any]) -> bool:
    low, high = np.maximum(a["xyxy"][:2], b["xyxy"][:2]), np.minimum(a["xyxy"][2:], b["xyxy"][2:])
    common = float(np.prod(np.maximum(high - low, 0)))
    areas = [float(np.prod(np.subtract(e["xyxy"][2:], e["xyxy"][:2]))) for e in (a, b)]
    overlap = common / (sum(areas) - common)
    near = abs(a["confidence"] - b["confidence"]) <= _CONFIDENCE_SHIFT
    return bool(a["class_id"] == b["class_id"] and near and overlap >= _LEAST_IOU)


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        prepare(Path(sys.argv[2]))
    else:
        print(compare(Path(sys.argv[2]), sys.argv[3]))
