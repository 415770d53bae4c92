"""Export the detector that ships with the package to INT8, calibrated on pictures of the synthetic camera.

With your own model: replace the path, give a folder of your own pictures, and see docs/export.md for the flags.

    python examples/01_export_int8.py [FOLDER]
"""

import sys
from pathlib import Path

from edgevision import models
from edgevision.export import ExportConfig, export_model
from edgevision.synthetic.dataset import write_dataset

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "example")
pictures = write_dataset(folder / "calibration", seeds=range(20_000, 20_008), frames_per_seed=2)
config = ExportConfig(precision="int8", calibration_images=pictures.images)
report = export_model(models.path("aerial_detector"), folder / "detector.edge", config)
print(f"{report.bundle}: {report.layers_int8} layers in INT8, {report.layers_float} in float")
for step in report.steps:
    print(f"  {step.name}: {step.seconds:.1f} s")
