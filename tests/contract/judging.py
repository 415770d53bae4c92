"""Gives graphs to a TensorRT module, real or not, and says what became of them."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """What a TensorRT made of a graph.

    Attributes:
        supported: what `supports_model_v2` says.
        refused: name and operator of each node that the parser refused.
        parsed: whether it was read.
        ends: name, shape and type of inputs and outputs.
        built: whether an engine came of it.
    """

    supported: bool
    refused: tuple[tuple[str, str], ...]
    parsed: bool
    ends: tuple[tuple[str, tuple[int, ...], str], ...]
    built: bool


Shapes = dict[str, tuple[tuple[int, ...], ...]]


def logger(trt: ModuleType) -> Any:
    """A logger that keeps its lines, with their levels."""

    class Log(trt.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[tuple[str, str]] = []

        def log(self, severity: Any, message: str) -> None:
            self.lines.append((severity.name, message))

    return Log()


def judge(trt: ModuleType, model: bytes, profiles: tuple[Shapes, ...] = ()) -> Verdict:
    """Ask, parse and build."""
    log = logger(trt)
    builder = trt.Builder(log)
    asked = builder.create_network(0)
    supported = trt.OnnxParser(asked, log).supports_model_v2(model)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    parsed = parser.parse(model)
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    refused = tuple(sorted((error.node_name(), error.node_operator()) for error in errors))
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    tensors += [network.get_output(i) for i in range(network.num_outputs)]
    ends = tuple((tensor.name, tuple(tensor.shape), tensor.dtype.name) for tensor in tensors) if parsed else ()
    config = builder.create_builder_config()
    for shapes in profiles:
        profile = builder.create_optimization_profile()
        for name, sides in shapes.items():
            profile.set_shape(name, *sides)
        config.add_optimization_profile(profile)
    built = bool(parsed and tensors) and builder.build_serialized_network(network, config) is not None
    return Verdict(bool(supported), refused, bool(parsed), ends, built)
