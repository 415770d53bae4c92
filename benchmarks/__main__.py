"""`make bench`: every speed claim of this project, each against its counterpart in one process on this machine.

Uses the models and the camera that ship with the package; a real SSD and real pictures join in where the folder
`shared/` lies beside the checkout. Ends with 1 when a claim does not hold here.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from edgevision import models
from edgevision.export import ExportConfig, export_model
from edgevision.synthetic.dataset import write_dataset

_FOLDER = Path("build/bench")
_SHARED = Path(__file__).resolve().parents[2] / "shared"
_REAL_SSD = _SHARED / "models" / "ssd_mobilenet_v1_coco_raw.onnx"
_REAL_PICTURES = _SHARED / "data" / "coco_calib" / "images"


def main() -> int:
    """Export what is measured, then run each benchmark as a process of its own."""
    _FOLDER.mkdir(parents=True, exist_ok=True)
    pictures = write_dataset(_FOLDER / "pictures", range(20_000, 20_024), 2).images
    detector, segmenter = _FOLDER / "aerial_detector.edge", _FOLDER / "aerial_segmenter.edge"
    for bundle in (detector, segmenter):
        config = ExportConfig(precision="int8", calibration_images=pictures)
        export_model(models.path(bundle.stem), bundle, config)
    single_shot, calibration = [detector], (models.path("aerial_detector"), pictures)
    if _REAL_SSD.is_file():
        single_shot.append(_FOLDER / "ssd_mobilenet_v1.edge")
        priors = _REAL_SSD.with_name("ssd_mobilenet_v1_coco_anchors.npy")
        config = ExportConfig(precision="int8", labels="coco90", priors=priors, calibration_images=_REAL_PICTURES)
        export_model(_REAL_SSD, single_shot[-1], config)
        calibration = (_REAL_SSD, _REAL_PICTURES)
    claims: list[tuple[str, ...]] = [
        ("synthetic_camera",),
        ("preprocess_and_nms",),
        ("int8_speed", "--at-least", "2", *map(str, single_shot)),
        ("decode_cost",),
        ("calibration_cost", *map(str, calibration)),
        ("video_pipeline",),
        ("video_pipeline", "--bundle", str(detector)),
    ]
    missed = []
    for name, *arguments in claims:
        print(f"\n== {' '.join((name, *arguments))}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *arguments], timeout=1800).returncode:
            missed.append(name)
    print(f"\nclaims that do not hold on this machine: {', '.join(missed)}" if missed else "\nevery claim holds here")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
