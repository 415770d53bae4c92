"""NVIDIA's Model Optimizer, in an environment of its own.

    python -m benchmarks.quantization.quantise_modelopt JOB.json

The job: see quantise_onnxruntime; the setting is `entropy` or `max`. What stays float stays float32: on its default,
float16, the accuracy can only be less.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from modelopt.onnx.quantization import quantize

if __name__ == "__main__":
    job = json.loads(Path(sys.argv[1]).read_text())
    quantize(
        job["model"],
        quantize_mode="int8",
        calibration_data={job["input_name"]: np.load(job["inputs"], mmap_mode="r")},
        calibration_method=job["setting"],
        calibration_eps=["cpu"],
        output_path=job["output"],
        high_precision_dtype="fp32",
        log_level="WARNING",
    )
