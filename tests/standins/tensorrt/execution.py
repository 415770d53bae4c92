"""Runs a plan's network with ONNX Runtime on memory given by address."""

from __future__ import annotations

import ctypes
import functools
import math
import threading
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import shape_inference

from tests.standins.tensorrt import driver
from tests.standins.tensorrt.plan import Plan

_NUMPY = {
    "FLOAT": np.dtype(np.float32),
    "HALF": np.dtype(np.float16),
    "INT8": np.dtype(np.int8),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
}


class Program:
    """An engine's network, ready to run; shared by its contexts."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._lock = threading.Lock()
        self._session: Any = None
        self._shapes: dict[tuple[Any, ...], dict[str, tuple[int, ...]]] = {}

    @property
    def session(self) -> Any:
        """The session: quantised operators as written, nothing fused into integer arithmetic."""
        with self._lock:
            if self._session is None:
                options = onnxruntime.SessionOptions()
                options.intra_op_num_threads = options.inter_op_num_threads = 1
                options.log_severity_level = 4
                options.add_session_config_entry("session.disable_quant_qdq", "1")
                self._session = onnxruntime.InferenceSession(
                    self.plan.model, options, providers=["CPUExecutionProvider"]
                )
            return self._session

    def shapes(self, inputs: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Every tensor's shape, given the inputs'; -1 where it depends on the data."""
        key = tuple(inputs.items())
        if key not in self._shapes:
            model = onnx.ModelProto()
            model.ParseFromString(self.plan.model)
            for value in model.graph.input:
                del value.type.tensor_type.shape.dim[:]
                for side in inputs[value.name]:
                    value.type.tensor_type.shape.dim.add().dim_value = side
            for value in model.graph.output:
                value.type.tensor_type.ClearField("shape")
            inferred = shape_inference.infer_shapes(model, data_prop=True)
            found = dict(inputs)
            for value in inferred.graph.output:
                dims = value.type.tensor_type.shape.dim
                found[value.name] = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in dims)
            if any(-1 in shape for shape in found.values()):
                found |= self._by_running(inputs)
            self._shapes[key] = found
        return self._shapes[key]

    def _by_running(self, inputs: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        kinds = {t.name: _NUMPY[t.dtype] for t in self.plan.tensors}
        values = self.session.run(None, {name: np.zeros(shape, kinds[name]) for name, shape in inputs.items()})
        return {e.name: v.shape for e, v in zip(self.session.get_outputs(), values, strict=True)}

    def max_bytes(self, name: str) -> int:
        """Of a tensor, at the largest input shapes."""
        inputs = {t.name: t.ranges[0][2] for t in self.plan.tensors if t.is_input}
        return nbytes(self.shapes(inputs)[name], self.dtype(name))

    def dtype(self, name: str) -> np.dtype[Any]:
        """A tensor's numpy type."""
        return _NUMPY[next(t.dtype for t in self.plan.tensors if t.name == name)]


def nbytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Size of a dense tensor."""
    return math.prod(shape) * dtype.itemsize


class Run:
    """One enqueue: fixed addresses and shapes. Called by the stream, any number of times."""

    def __init__(
        self,
        program: Program,
        addresses: dict[str, int],
        shapes: dict[str, tuple[int, ...]],
        errors: list[str],
        *,
        on_device: bool,
    ) -> None:
        self._program, self._addresses, self._shapes, self._errors = program, addresses, shapes, errors
        self._on_device = on_device

    @functools.cached_property
    def _binding(self) -> Any:
        binding = self._program.session.io_binding()
        for tensor in self._program.plan.tensors:
            bind = binding.bind_input if tensor.is_input else binding.bind_output
            dtype = self._program.dtype(tensor.name)
            bind(tensor.name, "cpu", 0, dtype, self._shapes[tensor.name], self._addresses[tensor.name])
        return binding

    def __call__(self) -> None:
        try:
            for name, address in self._addresses.items() if self._on_device else ():
                size = nbytes(self._shapes[name], self._program.dtype(name))
                problem = driver.check_range(address, size)
                if problem is not None:
                    raise MemoryError(f"tensor {name}: {problem}")
            self._program.session.run_with_iobinding(self._binding)
        except Exception as error:  # noqa: BLE001 - a stream has nobody to raise to
            words = f"TensorRT: {type(error).__name__}: {error}"
            self._errors.append(words)
            if self._on_device:
                driver.report(words)


def view(address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Memory as an array, without a copy."""
    memory = (ctypes.c_char * nbytes(shape, dtype)).from_address(address)
    return np.frombuffer(memory, dtype).reshape(shape)
