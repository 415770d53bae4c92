"""Passes that make a graph smaller without changing what it computes. Each returns how many places it changed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from edgevision.export.folding import fold_constants
from edgevision.export.graph import Graph, all_nodes, attribute


def simplify(graph: Graph) -> dict[str, int]:
    """Run all passes to the end; returns pass name -> places changed. `graph` has its shapes inferred, before and
    after.

    Raises:
        ModelError: a constant expression cannot be computed.
    """
    passes: tuple[Callable[[Graph], int], ...] = (
        fold_constants,
        remove_identities,
        fold_batch_norms,
        merge_pads,
        remove_dead,
    )
    changed = {step.__name__: step(graph) for step in passes}
    graph.infer_shapes()
    return changed


def remove_identities(graph: Graph) -> int:
    """Bypass Identity, Dropout at inference and casts to the type a tensor already has."""
    bypass: dict[str, str] = {}
    removed = []
    for node in graph.nodes:
        if _does_nothing(graph, node) and node.output[0] not in graph.outputs:
            bypass[node.output[0]] = bypass.get(node.input[0], node.input[0])
            removed.append(node)
    for node in removed:
        graph.proto.node.remove(node)
    if bypass:
        for node in all_nodes(graph.nodes):
            node.input[:] = [bypass.get(name, name) for name in node.input]
    graph.reindex()
    return len(removed)


def _does_nothing(graph: Graph, node: onnx.NodeProto) -> bool:
    if node.op_type == "Identity":
        return True
    if node.op_type == "Cast":
        return bool(graph.dtype(node.input[0]) == attribute(node, "to"))
    if node.op_type == "Dropout":
        training = node.input[2] if len(node.input) > 2 else ""
        mask_unused = len(node.output) < 2 or not graph.consumers.get(node.output[1])
        return mask_unused and (not training or not graph.constants.get(training, np.True_).any())
    return False


def fold_batch_norms(graph: Graph) -> int:
    """Fold a BatchNormalization into the convolution whose only reader it is."""
    folded = 0
    for norm in [node for node in graph.nodes if node.op_type == "BatchNormalization"]:
        conv = graph.producer.get(norm.input[0])
        if (
            conv is None
            or conv.op_type not in ("Conv", "ConvTranspose")
            or len(graph.consumers[norm.input[0]]) != 1
            or norm.input[0] in graph.outputs
            or attribute(norm, "training_mode", 0)
            or not all(name in graph.constants for name in (*norm.input[1:], *conv.input[1:]))
        ):
            continue
        _fold_norm(graph, conv, norm)
        folded += 1
    graph.reindex()
    return folded


def _fold_norm(graph: Graph, conv: onnx.NodeProto, norm: onnx.NodeProto) -> None:
    scale, shift, mean, variance = (graph.constants[name].astype(np.float64) for name in norm.input[1:5])
    factor = scale / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
    weight = graph.constants[conv.input[1]].astype(np.float64)
    bias = graph.constants[conv.input[2]].astype(np.float64) if len(conv.input) > 2 else 0.0
    if conv.op_type == "Conv":
        weight *= factor.reshape(-1, *[1] * (weight.ndim - 1))
    else:
        # A transposed convolution's weights are (in, out / groups, ...), the groups lying along `in`.
        groups = attribute(conv, "group", 1)
        grouped = weight.reshape(groups, -1, *weight.shape[1:])
        weight = (grouped * factor.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))).reshape(weight.shape)
    new_bias = ((bias - mean) * factor + shift).astype(np.float32)
    conv.input[:] = [
        conv.input[0],
        graph.add_constant(f"{conv.input[1]}_folded", weight.astype(np.float32)),
        graph.add_constant(f"{conv.output[0]}_bias", new_bias),
    ]
    conv.output[0] = norm.output[0]
    graph.proto.node.remove(norm)
    graph.producer[norm.output[0]] = conv


def merge_pads(graph: Graph) -> int:
    """Let a convolution pad for itself where a zero Pad of height and width comes before it."""
    merged = 0
    for conv in [node for node in graph.nodes if node.op_type == "Conv"]:
        pad = graph.producer.get(conv.input[0])
        if pad is None or pad.op_type != "Pad" or attribute(conv, "auto_pad", b"NOTSET") != b"NOTSET":
            continue
        extra = _spatial_zero_pads(graph, pad)
        if extra is None:
            continue
        own = attribute(conv, "pads", [0] * len(extra))
        for index, entry in enumerate(conv.attribute):
            if entry.name == "pads":
                del conv.attribute[index]
                break
        total = [a + b for a, b in zip(own, extra, strict=True)]
        conv.attribute.append(onnx.helper.make_attribute("pads", total))
        conv.input[0] = pad.input[0]
        merged += 1
    graph.reindex()
    return merged


def _spatial_zero_pads(graph: Graph, pad: onnx.NodeProto) -> list[int] | None:
    """Begins and ends of a Pad that only adds zeros around height and width; None for any other."""
    inputs = [*pad.input, "", ""]
    shape = graph.shape(pad.input[0])
    if attribute(pad, "mode", b"constant") != b"constant" or shape is None or inputs[1] not in graph.constants:
        return None
    if inputs[2] and (inputs[2] not in graph.constants or graph.constants[inputs[2]].any()):
        return None
    if inputs[3] and inputs[3] not in graph.constants:
        return None
    rank = len(shape)
    axes = [int(axis) % rank for axis in graph.constants[inputs[3]]] if inputs[3] else list(range(rank))
    pads = [int(value) for value in graph.constants[inputs[1]]]
    begins = dict(zip(axes, pads[: len(axes)], strict=True))
    ends = dict(zip(axes, pads[len(axes) :], strict=True))
    every = [begins.get(axis, 0) for axis in range(rank)] + [ends.get(axis, 0) for axis in range(rank)]
    if min(every) < 0 or every[0] or every[1] or every[rank] or every[rank + 1]:
        return None
    return every[2:rank] + every[rank + 2 :]


def remove_dead(graph: Graph) -> int:
    """Drop nodes and constants that no output depends on."""
    needed = set(graph.outputs)
    kept = []
    for node in reversed(list(graph.nodes)):
        if any(name in needed for name in node.output if name):
            kept.append(node)
            needed.update(name for inner in all_nodes([node]) for name in inner.input)
    tensors = [tensor for tensor in graph.proto.initializer if tensor.name in needed]
    if len(tensors) < len(graph.proto.initializer):
        del graph.proto.initializer[:]
        graph.proto.initializer.extend(tensors)
    gone = len(graph.proto.node) - len(kept)
    graph.replace_nodes(reversed(kept))
    return gone
