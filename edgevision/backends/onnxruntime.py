"""ONNX Runtime's CPU provider: the backend that works everywhere, and the reference for the others."""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevision.backends.base import TensorSpec
from edgevision.backends.onnx_safety import check_graph
from edgevision.errors import SessionError
from edgevision.machine import has_int8_dot
from edgevision.optional import require

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
BATCH = "batch"
"""Name of the first dimension of a graph that takes any number of pictures."""
_FATAL = 4  # ONNX Runtime's log level: whatever it has to say arrives in its exceptions


class OnnxRuntimeSession:
    """One loaded graph with its own input binding and output buffers; see `backends.base.Session`."""

    def __init__(self, loaded: Any, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        self._loaded, self.inputs, self.outputs = loaded, inputs, outputs
        self._binding = loaded.io_binding()
        self._bound: dict[str, NDArray[Any]] = {}
        # Kept buffers: a fresh 22 MB logits tensor per frame would cost milliseconds in page faults alone.
        self._results: dict[str, NDArray[Any]] = {}
        for spec in outputs:
            buffer = self._results[spec.name] = np.empty(spec.shape, spec.dtype)
            self._binding.bind_output(spec.name, "cpu", 0, buffer.dtype, spec.shape, buffer.ctypes.data)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Infer. The returned arrays are overwritten by the next run of this session.

        An input array is bound by address: passing the same array again, with new content, costs nothing.

        Raises:
            SessionError: an input is missing or does not fit, or ONNX Runtime failed.
        """
        if self._loaded is None:
            raise SessionError("this session is closed; open another one")
        for spec in self.inputs:
            array = inputs.get(spec.name)
            if array is None or array is not self._bound.get(spec.name):
                self._bind(spec, array)
        try:
            self._loaded.run_with_iobinding(self._binding)
        except Exception as error:
            raise SessionError(f"ONNX Runtime failed: {_message(error)}") from error
        return self._results

    def _bind(self, spec: TensorSpec, array: NDArray[Any] | None) -> None:
        if array is None:
            raise SessionError(f"input {spec.name!r} is missing; this graph takes {[s.name for s in self.inputs]}")
        if array.shape != spec.shape or array.dtype != spec.dtype or not array.flags.c_contiguous:
            layout = "" if array.flags.c_contiguous else ", not C-contiguous"
            raise SessionError(
                f"input {spec.name!r} takes a C-contiguous {spec.shape} {spec.dtype}, "
                f"got {array.shape} {array.dtype}{layout}"
            )
        self._binding.bind_input(spec.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        self._bound[spec.name] = array

    def sibling(self) -> OnnxRuntimeSession:
        """A session over the same loaded graph with its own buffers, for another thread."""
        if self._loaded is None:
            raise SessionError("this session is closed; open another one")
        return OnnxRuntimeSession(self._loaded, self.inputs, self.outputs)

    def close(self) -> None:
        """Free the buffers, and the graph when the last session over it is closed."""
        self._loaded = self._binding = None
        self._bound.clear()
        self._results = {}


class OpenBatchSession:
    """A loaded graph that takes any number of pictures; results are new arrays.

    Attributes:
        input_name: of its one input.
    """

    def __init__(self, loaded: Any) -> None:
        self._loaded = loaded
        self.input_name: str = loaded.get_inputs()[0].name
        self._names = [entry.name for entry in loaded.get_outputs()]

    def run(self, pictures: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Infer a batch.

        Raises:
            SessionError: ONNX Runtime failed.
        """
        try:
            return dict(zip(self._names, self._loaded.run(self._names, {self.input_name: pictures}), strict=True))
        except Exception as error:
            raise SessionError(f"ONNX Runtime failed: {_message(error)}") from error


def open_batch_session(graph: bytes, *, threads: int = 1, exact: bool = False) -> OpenBatchSession:
    """Load a graph for a few runs or, where its batch is open (GraphInfo.dynamic_batch), batches of changing length.

    Args:
        graph, threads, exact: see open_session.

    Raises:
        SessionError: ONNX Runtime refuses the graph.
    """
    return OpenBatchSession(_load(graph, threads=threads, optimise=True, exact=exact, batch=None))


def open_session(
    graph: bytes, *, threads: int = 1, optimise: bool = True, exact: bool = False, batch: int = 1
) -> OnnxRuntimeSession:
    """Load an ONNX graph; its input shapes are fixed, or open in the batch alone.

    Args:
        graph: a serialised ModelProto. It may come from anywhere: references to files outside it are refused.
        threads: threads for one inference, the caller's included. More than one shorten it only while no other
            program keeps the cores busy.
        optimise: let ONNX Runtime fuse and fold.
        exact: run QuantizeLinear and DequantizeLinear as written, with float arithmetic between them, instead of
            fusing them into integer kernels: the numerics of TensorRT's graphs, at the price of speed.
        batch: pictures in one inference; a graph with fixed shapes keeps its own number.

    Raises:
        SessionError: ONNX Runtime refuses the graph, or an input has no fixed shape.
    """
    loaded = _load(graph, threads=threads, optimise=optimise, exact=exact, batch=batch)
    inputs = tuple(_spec(entry, "input") for entry in loaded.get_inputs())
    entries = loaded.get_outputs()
    if all(_fixed(entry.shape) for entry in entries):
        return OnnxRuntimeSession(loaded, inputs, tuple(_spec(entry, "output") for entry in entries))
    # Inputs are fixed, so the outputs are too; where the graph does not say so, one run does.
    try:
        values = loaded.run(None, {spec.name: np.zeros(spec.shape, spec.dtype) for spec in inputs})
    except Exception as error:
        raise SessionError(f"ONNX Runtime failed: {_message(error)}") from error
    outputs = tuple(TensorSpec(e.name, v.shape, v.dtype.name) for e, v in zip(entries, values, strict=True))
    return OnnxRuntimeSession(loaded, inputs, outputs)


def _load(graph: bytes, *, threads: int, optimise: bool, exact: bool, batch: int | None) -> Any:
    ort = require("onnxruntime", "inference on the CPU")
    check_graph(graph)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _FATAL
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # A plan of all memory, made after the first run, needs as much again: worth it for many runs of one length only.
    options.enable_mem_pattern = batch is not None
    if batch is not None:
        options.add_free_dimension_override_by_name(BATCH, batch)  # before it optimises: as fast as a fixed graph
    # Workers spin between the operators of one inference (asleep, two threads were no faster than one), and stop when
    # it ends, so that they take nothing from what the cores do between frames.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.disable_quant_qdq", "1" if exact else "0")
    options.add_session_config_entry("session.x64quantprecision", "1" if _int8_sums_saturate() else "0")
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise SessionError(f"ONNX Runtime {ort.__version__} refuses the graph: {_message(error)}") from error


@functools.cache
def _int8_sums_saturate() -> bool:
    """Whether this processor is an x86 without VNNI: ONNX Runtime then adds pairs of uint8 x int8 products in 16 bits.

    Exact sums cost half the speed, with VNNI too, so they are asked for only there (and where nobody can tell).
    """
    return platform.machine().lower() in ("x86_64", "amd64") and not has_int8_dot()


def _fixed(shape: list[Any]) -> bool:
    return all(isinstance(side, int) and side >= 0 for side in shape)


def _spec(entry: Any, kind: str) -> TensorSpec:
    if entry.type not in _DTYPES:
        raise SessionError(f"{kind} {entry.name!r} is a {entry.type}; only plain number tensors are supported")
    if not _fixed(entry.shape):
        raise SessionError(
            f"{kind} {entry.name!r} has the open shape {entry.shape}, expected fixed sizes; "
            "edgevision export fixes the batch to 1"
        )
    return TensorSpec(entry.name, tuple(entry.shape), _DTYPES[entry.type])


def _message(error: Exception) -> str:
    """ONNX Runtime's own words on one line, without its prefix of codes."""
    text = " ".join(str(error).split())
    return text.rpartition("[ONNXRuntimeError] : ")[2][:1000]
