"""Who quantises how: ourselves and the peers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """One quantiser with one setting, or one graph of what it made.

    Attributes:
        name: on the command line and as a file's name.
        title: in tables.
        maker: the quantiser's name, for the comparison with each peer's best.
        module: of this folder, does it.
        setting: for the module.
        graph: the bundle's graph that the result is: `tensorrt.onnx` runs as fake quantisation, `cpu.onnx` on ONNX
            Runtime's integer kernels.
        histogram: it looks at the distribution of values, not only at their ends.
        export_of: the method whose export made this one's graph as well.
    """

    name: str
    title: str
    maker: str
    module: str
    setting: str = ""
    graph: str = "tensorrt.onnx"
    histogram: bool = False
    export_of: str = ""


OURS = Method("edgevision", "edgevision", "edgevision", "quantise_edgevision", histogram=True)
OURS_CPU = Method(
    "edgevision-cpu", "edgevision, CPU", "edgevision", "quantise_edgevision", graph="cpu.onnx", export_of="edgevision"
)
U8S8 = Method(
    "onnxruntime-u8s8", "onnxruntime U8S8, CPU", "onnxruntime", "quantise_onnxruntime", "u8s8", graph="cpu.onnx"
)
METHODS = (
    OURS,
    OURS_CPU,
    Method("onnxruntime-minmax", "onnxruntime MinMax", "onnxruntime", "quantise_onnxruntime", "minmax"),
    Method(
        "onnxruntime-entropy", "onnxruntime Entropy", "onnxruntime", "quantise_onnxruntime", "entropy", histogram=True
    ),
    Method(
        "onnxruntime-percentile",
        "onnxruntime Percentile 99.99",
        "onnxruntime",
        "quantise_onnxruntime",
        "percentile",
        histogram=True,
    ),
    U8S8,
    Method("modelopt-max", "modelopt max", "modelopt", "quantise_modelopt", "max"),
    Method("modelopt-entropy", "modelopt entropy", "modelopt", "quantise_modelopt", "entropy", histogram=True),
)
FLOAT = "float"
