"""Our export as users run it, everything it does included: the graphs for TensorRT and the CPU, FP16, verification.

    python -m benchmarks.quantization.quantise_edgevision JOB.json

The job: `model`, `output`, `pictures`, `limit` and `options` of ExportConfig.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from edgevision.export import ExportConfig, export_model

if __name__ == "__main__":
    job = json.loads(Path(sys.argv[1]).read_text())
    pictures = {"calibration_images": job["pictures"], "calibration_limit": job["limit"]}
    export_model(job["model"], job["output"], ExportConfig(precision="int8", quiet=True, **pictures, **job["options"]))
