"""Changes precisions within a parsed network: nodes out of INT8, nodes kept in float32."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from edgevision.backends.network import Network, onnx_nodes
from edgevision.backends.tensorrt_api import Api
from edgevision.backends.tensorrt_types import DataType, ILayer, ITensor


def rerouted_inputs(api: Api, layer: ILayer, makers: dict[str, ILayer]) -> Iterator[tuple[int, ITensor]]:
    """Which of a layer's inputs come through a Q/DQ pair: their number, and what goes into the pair."""
    kinds = api.module.LayerType
    if layer.type in (kinds.QUANTIZE, kinds.DEQUANTIZE):
        return
    for index in range(layer.num_inputs):
        tensor = layer.get_input(index)
        dequantize = makers.get(tensor.name) if tensor is not None else None
        if dequantize is None or dequantize.type != kinds.DEQUANTIZE:
            continue
        quantize = makers.get(dequantize.get_input(0).name)
        if quantize is not None and quantize.type == kinds.QUANTIZE:  # weights are stored as INT8, without a pair
            yield index, quantize.get_input(0)


def int8_nodes(api: Api, network: Network) -> frozenset[str]:
    """ONNX names of the layers that read something through a Q/DQ pair."""
    makers = network.makers()
    found = (layer for layer in network.layers if any(rerouted_inputs(api, layer, makers)))
    return frozenset(node for layer in found for node in onnx_nodes(layer))


def failing_nodes(network: Network, said: list[str], candidates: frozenset[str]) -> tuple[str, ...]:
    """The nodes among `candidates` that a failed build names.

    The builder names a layer by itself, in a list joined by ` + `, or as the ends of a region (`{ForeignNode[a...b]}`),
    which stands for everything between them.

    Args:
        network: that failed.
        said: the builder's error lines.
        candidates: ONNX names.
    """
    words = "\n".join(said)
    named = [
        index
        for index, layer in enumerate(network.layers)
        if any(_is_named(name, words) for name in {layer.name, *onnx_nodes(layer)})
    ]
    region = range(named[0], named[-1] + 1) if named and "ForeignNode[" in words else named
    blamed = [node for index in region for node in onnx_nodes(network.layers[index]) if node in candidates]
    return tuple(dict.fromkeys(blamed))


def _is_named(name: str, words: str) -> bool:
    """Whether `name` stands there whole, not as a part of a longer name; full stops may surround it."""
    return bool(name) and re.search(rf"(?<![\w/:])(?<![\w/:]\.){re.escape(name)}(?!\.?[\w/:])", words) is not None


def take_out_of_int8(api: Api, network: Network, nodes: tuple[str, ...]) -> None:
    """Make nodes compute in float: their inputs go round the Q/DQ pairs that the graph put before them."""
    makers, wanted = network.makers(), set(nodes)
    for layer in network.layers:
        if not wanted & set(onnx_nodes(layer)):
            continue
        for index, source in list(rerouted_inputs(api, layer, makers)):
            kind = layer.get_input(index).dtype
            if source.dtype != kind:
                source = network.handle.add_cast(source, kind).get_output(0)
            layer.set_input(index, source)


def pin(api: Api, network: Network, nodes: frozenset[str], kind: DataType) -> None:
    """In a weakly typed network, make nodes compute and store in one type.

    Args:
        api, network: of 8.6 to 10.x.
        nodes: ONNX names.
        kind: a `DataType`.
    """
    kinds, floats = api.module.LayerType, (api.module.DataType.FLOAT, api.module.DataType.HALF)
    fixed = (kinds.CONSTANT, kinds.SHAPE, kinds.QUANTIZE, kinds.DEQUANTIZE, kinds.CAST)
    for layer in network.layers:
        outputs = [layer.get_output(index) for index in range(layer.num_outputs)]
        if layer.type in fixed or any(o.dtype not in floats for o in outputs) or not nodes & set(onnx_nodes(layer)):
            continue
        if hasattr(layer, "precision") and hasattr(layer, "set_output_type"):
            layer.precision = kind
            for index, output in enumerate(outputs):
                if not output.is_network_output:
                    layer.set_output_type(index, kind)


def set_ranges(network: Network, ranges: Mapping[str, float]) -> None:
    """In a weakly typed network, tell the builder what it would calibrate.

    Args:
        network: of 8.6 to 10.x.
        ranges: largest magnitude by tensor name; tensors without one stay out of INT8.
    """
    tensors = [layer.get_output(index) for layer in network.layers for index in range(layer.num_outputs)]
    for tensor in (*network.inputs, *tensors):
        if tensor.name in ranges and hasattr(tensor, "set_dynamic_range"):
            tensor.set_dynamic_range(-ranges[tensor.name], ranges[tensor.name])
