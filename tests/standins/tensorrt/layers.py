"""What an engine's layers are called and computed in, as the build log and the inspector tell it."""

from __future__ import annotations

from typing import Any

_WEIGHTED = {"CONVOLUTION": "correlation", "DECONVOLUTION": "deconv", "MATRIX_MULTIPLY": "gemm"}
_NAMES = {"FLOAT": "Float", "HALF": "Half", "INT8": "Int8", "INT32": "Int32", "INT64": "Int64", "BOOL": "Bool"}
_FORMATS = {"Float": "Row major linear FP32", "Half": "Row major linear FP16 format", "Int8": "Row major Int8 format"}
_PASSING = ("SHUFFLE", "CAST", "IDENTITY")


def quantisers(network: Any) -> list[Any]:
    """The Q and DQ layers."""
    return [layer for layer in network._s.layers if layer._s.kind in ("QUANTIZE", "DEQUANTIZE")]


def _makers(network: Any) -> dict[Any, Any]:
    return {output: layer for layer in network._s.layers for output in layer._s.outputs if output is not None}


def describe(network: Any, options: Any) -> list[dict[str, Any]]:
    """One entry per layer of the engine; Q/DQ around a weighted layer become part of it, constants of their readers."""
    makers = _makers(network)
    found = []
    for layer in network._s.layers:
        if layer._s.kind in ("CONSTANT", "QUANTIZE", "DEQUANTIZE") or not layer._s.outputs:
            continue
        precision = _precision(layer, options, makers)
        kind = _WEIGHTED.get(layer._s.kind, "kgen")
        node = layer._s.metadata.removeprefix("[ONNX Layer: ").removesuffix("]")
        found.append(
            {
                "Name": layer._s.name,
                "LayerType": kind,
                "Precision": precision,
                "Nodes": [node],
                "Inputs": [_tensor(t, precision) for t in layer._s.inputs if makers.get(t) is not None or True],
                "Outputs": [_tensor(t, precision) for t in layer._s.outputs if t is not None],
                "Metadata": layer._s.metadata,
            }
        )
    return found


def _tensor(tensor: Any, precision: str) -> dict[str, Any]:
    kind = _NAMES.get(tensor._s.dtype.name, tensor._s.dtype.name)
    shown = precision if kind in ("Float", "Half") and precision in _FORMATS else kind
    return {"Name": tensor._s.name, "Dimensions": list(tensor._s.shape), "Datatype": shown}


def _precision(layer: Any, options: Any, makers: dict[Any, Any]) -> str:
    """The type that a layer computes in."""
    if layer._s.kind in _WEIGHTED:
        behind = [_dequantised(tensor, makers) for tensor in layer._s.inputs[:2]]
        if all(behind) and len(behind) > 1:
            return "Int8"
        if _is_implicit(layer, options):
            return "Int8"
    kind = layer._s.inputs[0]._s.dtype.name if layer._s.inputs else layer._s.outputs[0]._s.dtype.name
    if layer._s.precision is not None:
        kind = layer._s.precision.name
    elif kind == "FLOAT" and options._has("FP16"):
        kind = "HALF"
    return _NAMES.get(kind, kind)


def _is_implicit(layer: Any, options: Any) -> bool:
    """Whether a weighted layer computes in INT8 because calibration gave its input a range."""
    ranged = options._has("INT8") and layer._s.inputs and layer._s.inputs[0]._s.dynamic_range
    return bool(layer._s.kind in _WEIGHTED and ranged and layer._s.precision is None)


def implicit_grids(network: Any, options: Any) -> dict[Any, float]:
    """The scale of the input of each layer that computes in INT8 because of its input's range."""
    found = [layer for layer in network._s.layers if _is_implicit(layer, options)]
    return {layer: max(map(abs, layer._s.inputs[0]._s.dynamic_range)) / 127 for layer in found}


def _dequantised(tensor: Any, makers: dict[Any, Any]) -> bool:
    maker = makers.get(tensor)
    while maker is not None and maker._s.kind in _PASSING and maker._s.inputs:
        maker = makers.get(maker._s.inputs[0])
    return maker is not None and maker._s.kind == "DEQUANTIZE"


def log(trt: Any, logger: Any, found: list[dict[str, Any]], verbosity: str) -> None:
    """Log the layers as the builder does: in full only with detailed verbosity."""
    if verbosity != "DETAILED":
        return
    lines = []
    for layer in found:
        inputs, outputs = (
            ", ".join(
                f"{{ Name: {t['Name']}, Dimensions: {t['Dimensions']}, Datatype: {t['Datatype']} }}"
                for t in layer[side]
            )
            for side in ("Inputs", "Outputs")
        )
        lines.append(
            f"Name: {layer['Name']}, LayerType: {layer['LayerType']}, Inputs: [ {inputs} ], Constants: [ ], "
            f"Outputs: [ {outputs} ], TacticName: stand-in, StreamId: 0, Metadata: {layer['Metadata']}"
        )
    if trt.rtx:
        trt.log(logger, "VERBOSE", "Layers:\n" + "\n".join(lines))
    else:
        trt.log(logger, "VERBOSE", "Engine Layer Information:\n" + "\n".join(lines))


def inspect(layer: dict[str, Any], verbosity: str) -> Any:
    """One layer as the engine inspector's JSON shows it."""
    if verbosity != "DETAILED":
        return layer["Name"]
    shown = {key: layer[key] for key in ("Name", "LayerType", "Metadata")}
    for side in ("Inputs", "Outputs"):
        shown[side] = [
            {
                "Name": tensor["Name"],
                "Location": "Device",
                "Dimensions": tensor["Dimensions"],
                "Format/Datatype": _FORMATS.get(tensor["Datatype"], f"Row major linear {tensor['Datatype']}"),
            }
            for tensor in layer[side]
        ]
    return shown | {"TacticName": "stand-in", "StreamId": 0}
