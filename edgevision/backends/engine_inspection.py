"""The layers of a finished engine, as its inspector tells them: for the TensorRT versions whose builder lists none.

The inspector's JSON is documented by example only; what it does not say stays unknown.
"""

from __future__ import annotations

import json
import re
from typing import Any

from edgevision.backends.engine_layers import EngineLayer
from edgevision.backends.tensorrt_api import Api
from edgevision.backends.tensorrt_types import EngineInspector, ICudaEngine, ILogger, Runtime

_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_TYPES = {"int8": "int8", "fp16": "fp16", "half": "fp16", "fp32": "fp32", "float": "fp32"}
_TYPE = re.compile("|".join(_TYPES), re.IGNORECASE)


def layers_of_plan(api: Api, logger: ILogger, plan: bytes) -> tuple[EngineLayer, ...]:
    """The layers of a plan; empty where it cannot be loaded here (no GPU) or its inspector says nothing."""
    runtime: Runtime = api.module.Runtime(logger)
    runtime.engine_host_code_allowed = True  # a version-compatible plan built a moment ago, by us
    engine = runtime.deserialize_cuda_engine(plan)
    return () if engine is None else layers_of_engine(api, engine)


def layers_of_engine(api: Api, engine: ICudaEngine) -> tuple[EngineLayer, ...]:
    """The layers of a loaded engine that was built with detailed profiling."""
    inspector: EngineInspector = engine.create_engine_inspector()
    return parse_inspection(inspector.get_engine_information(api.module.LayerInformationFormat.JSON))


def parse_inspection(text: str) -> tuple[EngineLayer, ...]:
    """The layers in an inspector's JSON; those given by name only, without details, are left out."""
    try:
        listed = json.loads(text)["Layers"]
        return tuple(_layer(entry) for entry in listed if isinstance(entry, dict))
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()


def _layer(entry: dict[str, Any]) -> EngineLayer:
    name = str(entry.get("Name", ""))
    nodes = _NODE.findall(str(entry.get("Metadata", ""))) or [part.strip() for part in name.split(" + ")]
    kind = str(entry.get("ParameterType") or entry.get("LayerType", ""))
    formats = [str(tensor.get("Format/Datatype", "")) for tensor in entry.get("Inputs", []) if isinstance(tensor, dict)]
    # `Thirty-two wide channel vectorized row major Int8 format`, `Row major linear FP32`
    found = [match for text in formats for match in _TYPE.findall(text)[-1:]]
    return EngineLayer(name, kind, _TYPES[found[0].lower()] if found else "none", tuple(nodes))
