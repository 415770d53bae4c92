"""INT8 calibration through a program's calibrator object, as TensorRT 8.6 to 10.x do it."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import onnxruntime
from onnx import helper

from tests.standins.tensorrt import driver
from tests.standins.tensorrt.execution import nbytes, view

_TITLES = {"IInt8EntropyCalibrator2": "EntropyCalibration2", "IInt8MinMaxCalibrator": "MinMaxCalibration"}


def calibrate(trt: Any, logger: Any, network: Any, options: Any) -> None:
    """Set `dynamic_range` of every activation, from the calibrator's cache or from its batches."""
    calibrator = options._s.int8_calibrator
    title = next(text for name, text in _TITLES.items() if isinstance(calibrator, trt.classes[name]))
    number = "".join(str(part) for part in (*trt.number[:3], 0)[:4])
    head = f"TRT-{number}-{title}"
    cached = calibrator.read_calibration_cache()
    scales = _read(bytes(cached), head) if cached else None
    if scales is None:
        if cached:
            trt.log(logger, "WARNING", "The calibration cache was made by another version or calibrator; recalibrating")
        scales = _measure(trt, logger, network, calibrator)
        lines = [head] + [f"{name}: {struct.pack('>f', scale).hex()}" for name, scale in scales.items()]
        calibrator.write_calibration_cache(memoryview(("\n".join(lines) + "\n").encode()))
    for name, scale in scales.items():
        tensor = network._s.tensors.get(name)
        if tensor is None:
            tensor = next((t for t in network._s.tensors.values() if t._s.name == name), None)
        if tensor is not None:
            tensor._s.dynamic_range = (-127 * scale, 127 * scale)
    missing = [t._s.name for t in network._s.inputs if not t._s.dynamic_range]
    if missing:
        trt.log(
            logger, "WARNING", f"Missing scale and zero-point for tensor {missing[0]}, expect fall back to non-int8"
        )


def _read(text: bytes, head: str) -> dict[str, float] | None:
    lines = text.decode().splitlines()
    if not lines or lines[0] != head:
        return None
    pairs = (line.rpartition(": ") for line in lines[1:] if line)
    return {name: float(struct.unpack(">f", bytes.fromhex(value))[0]) for name, _, value in pairs}


def _measure(trt: Any, logger: Any, network: Any, calibrator: Any) -> dict[str, float]:
    model = network._to_model()
    floats = {t._s.key for t in network._s.tensors.values() if t._s.dtype.name in ("FLOAT", "HALF")}
    shown = {entry.name for entry in model.graph.output}
    for node in model.graph.node:
        for name in node.output:
            if name in floats and name not in shown:
                model.graph.output.append(helper.make_empty_tensor_value_info(name))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [t._s.name for t in network._s.inputs]
    batch, largest = calibrator.get_batch_size(), dict.fromkeys(names, 0.0)
    count = 0
    while addresses := calibrator.get_batch(names):
        if len(addresses) != len(names):
            raise ValueError(f"get_batch returned {len(addresses)} addresses for {len(names)} inputs")
        feed = {}
        for tensor, address in zip(network._s.inputs, addresses, strict=True):
            shape = tuple(batch if side < 0 else side for side in tensor._s.shape)
            dtype = np.dtype(trt._nptype(tensor._s.dtype))
            problem = driver.check_range(address, nbytes(shape, dtype)) if driver.present() else None
            if problem is not None:
                trt.world.errors.append(f"calibration: {problem}")
                return {}
            feed[tensor._s.name] = view(address, shape, dtype)
        outputs = session.run(None, feed)
        for entry, value in zip(session.get_outputs(), outputs, strict=True):
            if value.dtype.kind == "f" and value.size:
                largest[entry.name] = max(largest.get(entry.name, 0.0), float(np.abs(value).max()))
        for name, value in feed.items():
            largest[name] = max(largest[name], float(np.abs(value).max()))
        count += 1
    if not count:
        trt.log(logger, "ERROR", "Calibration failure occurred with no scaling factors detected.")
    return {name: value / 127 for name, value in largest.items() if value > 0}
