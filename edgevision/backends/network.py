"""An ONNX graph becomes a TensorRT network, or is refused with every reason."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from edgevision.backends.onnx_graph import Node, read_nodes
from edgevision.backends.onnx_safety import check_graph
from edgevision.backends.onnx_structure import check_structure
from edgevision.backends.tensorrt_api import Api
from edgevision.backends.tensorrt_types import (
    Builder,
    ILayer,
    ILogger,
    INetworkDefinition,
    ITensor,
    OnnxParser,
    ParserError,
)
from edgevision.errors import BuildError, SessionError

_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_SHOWN = 3
_TWO_STAGES = frozenset({"NonMaxSuppression", "NonZero", "RoiAlign"})


@dataclass
class Network:
    """A parsed network.

    Attributes:
        handle: TensorRT's network.
        parser: must live as long as the network: it owns the weights.
        layers: in the network's order.
    """

    handle: INetworkDefinition
    parser: OnnxParser
    layers: list[ILayer]

    def makers(self) -> dict[str, ILayer]:
        """Tensor name -> the layer that makes it."""
        return {layer.get_output(i).name: layer for layer in self.layers for i in range(layer.num_outputs)}

    @property
    def inputs(self) -> list[ITensor]:
        """Its input tensors."""
        return [self.handle.get_input(index) for index in range(self.handle.num_inputs)]


def parse(api: Api, builder: Builder, logger: ILogger, graph: bytes, name: str, *, typed: bool) -> Network:
    """Read a graph; where that fails, ask what else is not supported.

    Args:
        api: the TensorRT at hand.
        builder, logger: to read with.
        graph: the serialised ONNX model.
        name: what to call it in errors.
        typed: whether precisions come from the graph.

    Raises:
        BuildError: it is refused: names each node, its operator and the reason; or it holds no network.
    """
    # The parser takes bytes that are no model at all for an empty network, without an error.
    nodes = read_nodes(graph)
    if not nodes:
        raise BuildError(f"{name} holds no network ({len(graph)} bytes without a node); export it again")
    operators = {node.operator for node in nodes}
    two_stages = sorted(_TWO_STAGES & operators)
    if "RoiAlign" in operators and api.flavour == "tensorrt-rtx":
        raise BuildError(
            f"{api.title} cannot read {name}: it has no {', '.join(two_stages)}, with which a two-stage detector "
            "chooses and cuts out its proposals. Run the bundle on ONNX Runtime (--backend cpu) or with TensorRT itself"
        )
    try:
        check_graph(graph)
        check_structure(graph)
    except SessionError as error:
        raise BuildError(f"{name}: {error}") from error
    flags = api.network_flags(typed=typed)
    handle: INetworkDefinition = builder.create_network(flags)
    parser: OnnxParser = api.module.OnnxParser(handle, logger)
    if not parser.parse(graph):
        reasons = [_reason(parser.get_error(index), nodes) for index in range(parser.num_errors)]
        # A parser is spoilt by a failure, and so is its network. It does not keep its network alive.
        scratch: INetworkDefinition = builder.create_network(flags)
        others = _unsupported(api.module.OnnxParser(scratch, logger), graph)
        raise _refusal(api, reasons, [nodes[index] for index in others if index < len(nodes)], logger, name)
    if not handle.num_inputs or not handle.num_outputs:
        raise BuildError(f"{name} holds no network ({len(graph)} bytes without inputs or outputs); export it again")
    logger.records.clear()  # what it said about a model that it took in the end
    return Network(handle, parser, [handle.get_layer(index) for index in range(handle.num_layers)])


def _unsupported(parser: OnnxParser, graph: bytes) -> list[int]:
    """Numbers of all nodes that the parser does not support: `parse` may have stopped at the first."""
    if hasattr(parser, "supports_model_v2") and hasattr(parser, "is_subgraph_supported"):
        if parser.supports_model_v2(graph) or not hasattr(parser, "num_subgraphs"):
            return []
        refused = [index for index in range(parser.num_subgraphs) if not parser.is_subgraph_supported(index)]
        if hasattr(parser, "get_subgraph_nodes"):
            return [node for index in refused for node in parser.get_subgraph_nodes(index)]
    elif hasattr(parser, "supports_model"):
        return [node for numbers, supported in parser.supports_model(graph)[1] if not supported for node in numbers]
    return []


def _refusal(api: Api, reasons: list[str], others: list[Node], logger: ILogger, name: str) -> BuildError:
    """All that the parser refuses, those nodes last for which it gave no reason."""
    titles = [f"node {node.name!r} ({node.operator})" for node in others]
    given = {reason.partition(": ")[0] for reason in reasons}
    if given & set(titles):  # else the model as a whole was refused
        reasons = [*reasons, *(f"{title}: not supported" for title in titles if title not in given)]
    more = f" and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
    shown = "; ".join(reasons[:_SHOWN]) or f"no reason given{logger.records.said}"
    return BuildError(
        f"{api.title} cannot read {name}: {shown}{more}. Export the model again; if it stays, report it with the model",
        tuple(reasons),
    )


def _reason(error: ParserError, nodes: list[Node]) -> str:
    if hasattr(error, "node_name") and hasattr(error, "node_operator"):
        name, operator = error.node_name(), error.node_operator()
    else:  # TensorRT 8 gives the node's number only
        node = nodes[error.node()] if 0 <= error.node() < len(nodes) else None
        name, operator = (node.name, node.operator) if node else ("unknown", "unknown")
    return f"node {name!r} ({operator}): {' '.join(error.desc().split())[:200]}"


def onnx_nodes(layer: ILayer) -> list[str]:
    """Names of the ONNX nodes that a layer comes from."""
    return _NODE.findall(layer.metadata) or [layer.name]


def quantised(api: Api, network: Network) -> tuple[str, ...]:
    """ONNX names of the weighted layers whose input and weights both come from a DequantizeLinear."""
    return tuple(onnx_nodes(layer)[0] for layer in _quantised_layers(api, network))


def _quantised_layers(api: Api, network: Network) -> Iterator[ILayer]:
    makers, kinds = network.makers(), api.module.LayerType
    passing = (kinds.SHUFFLE, kinds.CAST, kinds.IDENTITY)

    def dequantised(tensor: ITensor) -> bool:
        maker = makers.get(tensor.name) if tensor is not None else None
        while maker is not None and maker.type in passing:
            maker = makers.get(maker.get_input(0).name)
        return maker is not None and maker.type == kinds.DEQUANTIZE

    for layer in network.layers:
        weighted = layer.type in (kinds.CONVOLUTION, kinds.DECONVOLUTION, kinds.MATRIX_MULTIPLY)
        if weighted and layer.num_inputs > 1 and dequantised(layer.get_input(0)) and dequantised(layer.get_input(1)):
            yield layer
