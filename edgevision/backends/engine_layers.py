"""What TensorRT built, read from the `Layers:` message that its builder logs at verbose level.

One line per layer: `Name: ..., LayerType: ..., Inputs: [ { ..., Datatype: Int8, ... } ], Constants: [...], Outputs:
[...], ..., Metadata: [ONNX Layer: a][ONNX Layer: b]`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_PRECISIONS = {"Int8": "int8", "Half": "fp16", "Float": "fp32", "BFloat16": "bf16"}
_LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], Constants: .*?"
    r"Metadata: ?(?P<metadata>.*)"
)
_TYPE = re.compile(r"Datatype: (\w+)")
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
# What the kinds of products are called: by TensorRT-RTX, and by the inspectors of the other versions.
_PRODUCTS = ("correlation", "conv", "gemm", "matrix", "fusion")


@dataclass(frozen=True)
class EngineLayer:
    """One kernel of an engine.

    Attributes:
        name: the builder's name for it.
        kind: its type: `correlation` and `deconv` for convolutions, `gemm`, `kgen` for generated element-wise code.
        precision: `int8`, `fp16`, `fp32`, ...: the type of its first input; `none` for one without inputs.
        onnx_nodes: names of the ONNX nodes that it implements or borders on.
    """

    name: str
    kind: str
    precision: str
    onnx_nodes: tuple[str, ...]

    @property
    def is_product(self) -> bool:
        """Whether it multiplies matrices or convolves, rather than being element-wise code around that."""
        return any(word in self.kind.lower() for word in _PRODUCTS)


def parse_layers(message: str) -> tuple[EngineLayer, ...]:
    """The layers of a `Layers:` message that compute something; synchronisation is left out."""
    layers = []
    for line in message.splitlines():
        match = _LINE.match(line.strip())
        if match is None or match["kind"] in ("signal", "wait"):
            continue
        types = _TYPE.findall(match["inputs"])
        precision = _PRECISIONS.get(types[0], types[0].lower()) if types else "none"
        layers.append(EngineLayer(match["name"], match["kind"], precision, tuple(_NODE.findall(match["metadata"]))))
    return tuple(layers)
