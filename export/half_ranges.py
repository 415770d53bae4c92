"""What float16 would do to a network's numbers on real pictures: which nodes must stay float32, measured.

The float graph runs once over a few pictures with small probes beside its tensors. float32 stay:
- tensors beyond 65504 / MARGIN, that is their producer and all their readers (an exponential's beyond 65504 / 64: a
  sum before it is a product behind it);
- reductions whose sum of magnitudes, or of squares, gets that large inside, although their result may be small;
- tensors whose largest number is below 2^-14 * MARGIN, where float16 loses digits;
- divisors, arguments of logarithms and what they are made of, where they come near the least normal float16 number
  (a variance of 1e-10 is 0 in float16);
- coordinates beyond 512 between the last layer and the boxes: float16 has steps of half a pixel there (NVIDIA's
  ModelOpt AutoCast uses the same bound for all tensors);
- normalisations whose epsilon float16 does not have.
Convolutions and matrix products are taken to add up in float32, as tensor cores do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import onnx
from numpy.typing import NDArray

from edgevision.calibration import CalibrationImages
from edgevision.export.graph import Graph, attribute
from edgevision.export.grids import FP16_MAX
from edgevision.export.half import vanishing
from edgevision.export.range_probes import Measured, measure
from edgevision.export.structure import WEIGHTED, decode_nodes, key
from edgevision.export.verification import input_tensors
from edgevision.manifest import Preprocess

MARGIN = 4.0
"""How many times larger (or smaller) numbers may be on pictures that were not measured."""
PICTURES = 16
_EXP_MARGIN = 64.0
_LEAST_NORMAL, _LEAST = 2.0**-14, 2.0**-24
_PIXEL_LIMIT = 512.0
_DIVISORS = {"Div": 1, "Reciprocal": 0, "Log": 0, "ReduceLogSum": 0}
_MAGNITUDES = frozenset(
    (
        *("Sqrt", "Add", "Mul", "Pow", "Abs", "Max", "Clip", "Exp", "ReduceMean", "ReduceSum", "ReduceL2"),
        *("ReduceSumSquare", "GlobalAveragePool", "Reshape", "Unsqueeze", "Expand"),
    )
)
_COORDINATES = ("boxes", "keypoints")


def keep_float32(
    graph: Graph, precision: str, preprocess: Preprocess, images: CalibrationImages | None, facts: dict[str, Any]
) -> dict[str, str]:
    """Nodes that stay float32 because of what calibration pictures do to them, by structure.key, with the reason.

    Args:
        graph: float, in normal form.
        precision: the bundle's; a float one has no float16.
        images: None: drawn pictures take their place.
        facts: given `pictures`, `margin`, `largest` magnitude, `largest_tensor`, `float32_nodes` (their number) and
            `float32` [{`node`, `reason`}]; `constants_to_zero`, how many numbers of constants become 0 (each beside
            much larger ones), and `vanishing` [{`constant`, `numbers`}].

    Raises:
        CalibrationError: none of the pictures can be read.
        ModelError: the graph does not run.
    """
    if precision == "fp32":
        return {}
    inputs = input_tensors(preprocess, images, PICTURES)
    measured = measure_numbers(graph, inputs)
    islands = find_islands(graph, measured)
    vanished = vanishing(graph, islands)
    largest = max(measured.peak, key=lambda name: measured.peak[name], default="")
    peak = measured.peak.get(largest, 0.0)
    facts.update(
        pictures=f"{len(inputs)} {'drawn, seeded ones' if images is None else 'of the calibration pictures'}",
        margin=MARGIN,
        largest=peak if math.isfinite(peak) else "infinite",  # JSON has no infinity
        largest_tensor=largest,
        float32_nodes=len(islands),
        constants_to_zero=sum(vanished.values()),
        vanishing=[{"constant": name, "numbers": count} for name, count in vanished.items()],
        float32=[{"node": name, "reason": reason} for name, reason in islands.items()],
    )
    return islands


def measure_numbers(graph: Graph, inputs: Iterable[NDArray[Any]]) -> Measured:
    """What `find_islands` needs to know, from a float graph's own inputs.

    Raises:
        ModelError: the graph does not run.
    """
    divisors = [name for node in graph.nodes if node.op_type in _DIVISORS for name in _delicate(graph, node)[1]]
    return measure(graph, inputs, dict.fromkeys(divisors))


def find_islands(graph: Graph, measured: Measured) -> dict[str, str]:
    """Nodes that must stay float32, by structure.key, with the reason; the decode, which does anyway, is left out."""
    decode = decode_nodes(graph)
    islands: dict[str, str] = {}
    for found, reason in _findings(graph, measured):
        for name in found:
            if name not in decode:
                islands.setdefault(name, reason)
    return islands


def _findings(graph: Graph, measured: Measured) -> Iterator[tuple[list[str], str]]:
    """Nodes that belong together, and why they stay float32."""
    for name, peak in measured.peak.items():
        producer = graph.producer.get(name)
        margin = _EXP_MARGIN if producer is not None and producer.op_type == "Exp" else MARGIN
        if not peak <= FP16_MAX / margin:
            yield _around(graph, name), f"{name!r} reaches {peak:.3g}; float16 ends at {FP16_MAX:g}"
        elif 0 < peak < MARGIN * _LEAST_NORMAL:
            yield (
                _around(graph, name),
                f"{name!r} stays within {peak:.3g}; float16 has few digits below {_LEAST_NORMAL:.1g}",
            )
    for node in graph.nodes:
        total = measured.total.get(key(node), 0.0)
        if not total <= FP16_MAX / MARGIN:
            yield [key(node)], f"adds up to {total:.3g} inside; float16 ends at {FP16_MAX:g}"
        epsilon = attribute(node, "epsilon", None)
        if epsilon is not None and 0 < epsilon < _LEAST:
            yield [key(node)], f"its epsilon {epsilon:.3g} is 0 in float16"
        if node.op_type in _DIVISORS:
            chain, checked = _delicate(graph, node)
            least = min((measured.least.get(name, math.inf) for name in checked), default=math.inf)
            if least < MARGIN * _LEAST_NORMAL:
                yield [*chain, key(node)], f"{node.op_type} depends on numbers down to {least:.3g}"
    for name in _coordinates(graph):
        peak = measured.peak.get(name, 0.0)
        if peak > _PIXEL_LIMIT:
            yield _around(graph, name), f"coordinates up to {peak:.4g}, where float16 has steps of half a pixel"


def _around(graph: Graph, name: str) -> list[str]:
    producer = graph.producer.get(name)
    nodes = ([] if producer is None else [producer]) + graph.consumers[name]
    return [key(node) for node in nodes]


def _delicate(graph: Graph, node: onnx.NodeProto) -> tuple[list[str], list[str]]:
    """Of a division or logarithm: the nodes that its divisor's magnitude comes from, and the tensors in which a small
    number would do harm: the divisor and what roots are taken of."""
    divisor = node.input[_DIVISORS[node.op_type]]
    chain: dict[str, None] = {}
    checked, waiting = [divisor], [divisor]
    while waiting:
        source = graph.producer.get(waiting.pop())
        if source is None or source.op_type not in _MAGNITUDES or key(source) in chain:
            continue
        chain[key(source)] = None
        waiting.extend(source.input)
        if source.op_type in ("Sqrt", "Pow"):
            checked.append(source.input[0])
    return list(chain), checked


def _coordinates(graph: Graph) -> list[str]:
    """Tensors between the last weighted layers and the boxes or points."""
    found: dict[str, None] = {}
    waiting = [name for name in graph.outputs if name in _COORDINATES]
    while waiting:
        name = waiting.pop()
        node = graph.producer.get(name)
        if node is not None and name not in found and node.op_type not in WEIGHTED:
            found[name] = None
            waiting.extend(node.input)
    return list(found)
