"""ONNX Runtime's own static quantiser.

    python -m benchmarks.quantization.quantise_onnxruntime JOB.json

The job: `model` (a network without decode), `output`, `inputs` (an .npy file of network inputs) and `setting`.

The settings for TensorRT are what its documentation asks for: int8 without zero points, weights per channel, float
biases, Q/DQ in front of the operators that TensorRT runs in INT8. `u8s8` is ONNX Runtime's form for CPUs with VNNI:
uint8 activations, int8 weights, the whole graph; per channel, which costs little and saves depthwise layers.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

_OPERATORS = ["Conv", "ConvTranspose", "MatMul", "Gemm", "Add", "MaxPool"]
_TENSORRT: dict[str, Any] = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "OpTypesToExcludeOutputQuantization": _OPERATORS,
}
_FOR_TENSORRT = {"activation_type": QuantType.QInt8, "op_types_to_quantize": _OPERATORS}
_SETTINGS: dict[str, dict[str, Any]] = {
    "minmax": {"calibrate_method": CalibrationMethod.MinMax, "extra_options": _TENSORRT, **_FOR_TENSORRT},
    "entropy": {"calibrate_method": CalibrationMethod.Entropy, "extra_options": _TENSORRT, **_FOR_TENSORRT},
    "percentile": {
        "calibrate_method": CalibrationMethod.Percentile,
        "extra_options": {**_TENSORRT, "CalibPercentile": 99.99},
        **_FOR_TENSORRT,
    },
    "u8s8": {"calibrate_method": CalibrationMethod.MinMax, "activation_type": QuantType.QUInt8},
}


class Inputs(CalibrationDataReader):
    """One prepared picture after another, read from a file."""

    def __init__(self, path: str, name: str) -> None:
        self._rows, self._name = iter(np.load(path, mmap_mode="r")), name

    def get_next(self) -> dict[str, np.ndarray] | None:
        row = next(self._rows, None)
        return None if row is None else {self._name: np.array(row)[None]}


def main(job: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        # The preparation that its guide asks for; the graph is simplified already, so that only shapes are left.
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(job["model"], prepared, skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            job["output"],
            Inputs(job["inputs"], job["input_name"]),
            quant_format=QuantFormat.QDQ,
            weight_type=QuantType.QInt8,
            per_channel=True,
            **_SETTINGS[job["setting"]],
        )


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
