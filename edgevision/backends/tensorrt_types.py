"""TensorRT's classes by name, for annotations.

No version's bindings can be imported where this code is checked, so these are names only. They carry the contract all
the same: whatever holds a TensorRT object across a function's border (parameter, result, attribute) is annotated with
one of them, and the contract test follows every attribute and call made on such a value through the source and checks
it against the real bindings of each supported version.

A member that some supported versions lack is reached with `getattr(value, "member", None)` or behind
`hasattr(value, "member")` in the same function; every other member must exist in all of them.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, TypeAlias

TensorRT: TypeAlias = ModuleType
"""The module itself: `tensorrt` or `tensorrt_rtx_bindings`."""

Builder: TypeAlias = Any
BuilderFlag: TypeAlias = Any
DataType: TypeAlias = Any
Dims: TypeAlias = Any
EngineInspector: TypeAlias = Any
IBuilderConfig: TypeAlias = Any
ICudaEngine: TypeAlias = Any
IErrorRecorder: TypeAlias = Any
IExecutionContext: TypeAlias = Any
IHostMemory: TypeAlias = Any
IInt8Calibrator: TypeAlias = Any
IInt8EntropyCalibrator2: TypeAlias = Any
IInt8MinMaxCalibrator: TypeAlias = Any
ILayer: TypeAlias = Any
ILogger: TypeAlias = Any
INetworkDefinition: TypeAlias = Any
IOptimizationProfile: TypeAlias = Any
IProgressMonitor: TypeAlias = Any
ITensor: TypeAlias = Any
ITimingCache: TypeAlias = Any
OnnxParser: TypeAlias = Any
ParserError: TypeAlias = Any
Runtime: TypeAlias = Any
Severity: TypeAlias = Any
