"""Small networks for the quantisation tests, pictures to feed them, and ranges measured on those pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgevision.backends.onnxruntime import open_session
from edgevision.export.graph import Graph
from edgevision.export.opset import IR_VERSION, OPSET
from tests.export.builders import Builder

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Extremes:
    """A range by minimum and maximum, for tests that do not ask how ranges are chosen."""

    low: float
    high: float

    def symmetric_limit(self, method: str) -> float:
        return max(-self.low, self.high) or 1.0

    def affine_range(self, method: str) -> tuple[float, float]:
        return min(self.low, 0.0), max(self.high, 0.0) or 1.0


class Net(Builder):
    """A network under construction over one picture of `side` pixels; tensors are named after their operators."""

    def __init__(self, seed: int = 0, side: int = 16, channels: int = 3) -> None:
        super().__init__(seed)
        self.input = (1, channels, side, side)

    def weight(self, *shape: int, gain: float = 1.4) -> str:
        fan = int(np.prod(shape[1:])) or 1
        return self.constant(self.random.normal(0, gain / np.sqrt(fan), shape).astype(np.float32))

    def bias(self, channels: int) -> str:
        return self.constant(self.random.normal(0, 0.2, channels).astype(np.float32))

    def convolution(
        self, x: str, cin: int, cout: int, kernel: int = 3, groups: int = 1, out: str | None = None, **attributes: Any
    ) -> str:
        """A convolution that keeps the size unless `attributes` say otherwise."""
        dilation = attributes.get("dilations", [1, 1])[0]
        settings = {"group": groups, "pads": [kernel // 2 * dilation] * 4, **attributes}
        weight = self.weight(cout, cin // groups, kernel, kernel)
        return self.op("Conv", x, weight, self.bias(cout), out=out, **settings)

    def relu6(self, x: str, out: str | None = None) -> str:
        return self.op("Clip", x, self.constant(np.float32(0)), self.constant(np.float32(6)), out=out)

    def graph(self, *outputs: str) -> Graph:
        model = self.model({"image": self.input}, outputs, opset=OPSET, ir_version=IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        return Graph(model)


def pictures(shape: Sequence[int], count: int = 4, seed: int = 0) -> list[Floats]:
    """Pictures with the spectrum of natural ones (amplitude falls with frequency), about -1..1."""
    random = np.random.default_rng(seed)
    height, width = shape[2:]
    fall = np.maximum(np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]), 1.0 / width)
    found = []
    for _ in range(count):
        phases = np.exp(2j * np.pi * random.random((*shape[:2], *fall.shape))) / fall
        planes = np.fft.irfft2(phases, (height, width))
        found.append(np.clip(planes / planes.std() * 0.5, -1, 1).astype(np.float32))
    return found


def run(graph: Graph, image: Floats, *, exact: bool = True) -> dict[str, NDArray[Any]]:
    """Outputs of a graph, Q/DQ as written (`exact`) or fused into integer kernels."""
    session = open_session(graph.serialize(), exact=exact)
    return {name: value.copy() for name, value in session.run({session.inputs[0].name: image}).items()}


def measured(graph: Graph, tensors: Iterable[str], images: Iterable[Floats]) -> dict[str, Extremes]:
    """Minimum and maximum of tensors over real runs."""
    probe = graph.copy()
    wanted = list(tensors)
    for name in wanted:
        if name not in probe.outputs and name not in probe.inputs:
            probe.proto.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    found: dict[str, Extremes] = {}
    for image in images:
        values = {**run(probe, image), probe.inputs[0]: image}
        for name in wanted:
            low, high = float(values[name].min()), float(values[name].max())
            old = found.get(name, Extremes(low, high))
            found[name] = Extremes(min(low, old.low), max(high, old.high))
    return found


def sqnr_db(reference: NDArray[Any], quantised: NDArray[Any]) -> float:
    """Power of the signal, its mean left out, over power of the error, in decibels."""
    signal = np.square(reference.astype(np.float64) - reference.mean()).sum()
    noise = np.square(reference.astype(np.float64) - quantised).sum()
    return float(10 * np.log10(max(signal, 1e-30) / max(noise, 1e-30)))


def random_network(seed: int) -> tuple[Graph, int]:
    """A chain of three to six blocks drawn from the common ones, a head behind it, and how many layers it has."""
    net = Net(seed, side=16)
    random = np.random.default_rng(seed + 10_000)
    channels = int(random.choice([8, 16, 24, 32]))
    x = _activate(net, random, net.convolution("image", 3, channels, strides=[int(random.integers(1, 3))] * 2))
    blocks = [_residual, _depthwise, _joined, _gated, _enlarged, _pooled, _grouped]
    for _ in range(int(random.integers(3, 7))):
        x, channels = blocks[int(random.integers(len(blocks)))](net, random, x, channels)
    net.convolution(x, channels, 10, kernel=1, out="y")
    layers = sum(node.op_type in ("Conv", "ConvTranspose") for node in net.nodes)
    return net.graph("y"), layers


def _activate(net: Net, random: np.random.Generator, x: str) -> str:
    kind = int(random.integers(5))
    if kind == 0:
        return net.relu6(x)
    if kind == 1:
        return net.op("Mul", x, net.op("Sigmoid", x))
    if kind == 2:
        return net.op("LeakyRelu", x, alpha=0.1)
    return net.op("Relu", x) if kind == 3 else x


def _residual(net: Net, random: np.random.Generator, x: str, channels: int) -> tuple[str, int]:
    branch = _activate(net, random, net.convolution(x, channels, channels, kernel=1))
    branch = net.convolution(branch, channels, channels)
    total = net.op("Add", *((x, branch) if random.random() < 0.5 else (branch, x)))
    return (net.op("Relu", total) if random.random() < 0.5 else total), channels


def _depthwise(net: Net, random: np.random.Generator, x: str, channels: int) -> tuple[str, int]:
    wide = int(random.choice([24, 40, 48]))
    y = _activate(net, random, net.convolution(x, channels, wide, kernel=1))
    y = net.convolution(y, wide, wide, groups=wide, dilations=[int(random.integers(1, 3))] * 2)
    return net.convolution(_activate(net, random, y), wide, channels, kernel=1), channels


def _joined(net: Net, random: np.random.Generator, x: str, channels: int) -> tuple[str, int]:
    left = _activate(net, random, net.convolution(x, channels, channels, kernel=1))
    right = _activate(net, random, net.convolution(x, channels, 16))
    return net.op("Concat", left, right, axis=1), channels + 16


def _gated(net: Net, random: np.random.Generator, x: str, channels: int) -> tuple[str, int]:
    squeezed = net.op("Relu", net.convolution(net.op("GlobalAveragePool", x), channels, 8, kernel=1))
    gate = net.op("Sigmoid", net.convolution(squeezed, 8, channels, kernel=1))
    return net.op("Mul", x, gate), channels


def _enlarged(net: Net, random: np.random.Generator, x: str, channels: int) -> tuple[str, int]:
    if random.random() < 0.5:
        weight = net.weight(channels, 16, 2, 2)
        return net.op("Relu", net.op("ConvTranspose", x, weight, net.bias(16), strides=[2, 2])), 16
    scales = net.constant(np.array([1, 1, 2, 2], np.float32))
    mode = "nearest" if random.random() < 0.5 else "linear"
    return net.convolution(net.op("Resize", x, "", scales, mode=mode), channels, channels, kernel=1), channels


def _pooled(net: Net, random: np.random.Generator, x: str, channels: int) -> tuple[str, int]:
    kind = "MaxPool" if random.random() < 0.5 else "AveragePool"
    pooled = net.op(kind, x, kernel_shape=[2, 2], pads=[0, 0, 1, 1])
    return net.convolution(pooled, channels, channels), channels


def _grouped(net: Net, random: np.random.Generator, x: str, channels: int) -> tuple[str, int]:
    return _activate(net, random, net.convolution(x, channels, 2 * channels, groups=2)), 2 * channels
