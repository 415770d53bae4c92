"""What must hold before a bundle is written: every graph sound, the CPU's graph worth it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgevision.calibration import CalibrationImages
from edgevision.errors import ModelError
from edgevision.export.batching import keep_batch
from edgevision.export.emission import Emitted
from edgevision.export.half_rounding import rounded_graph
from edgevision.export.verification import compare, concerns, input_tensors, noisier, open_graph, run_all, speed_ratio
from edgevision.machine import cpu_name
from edgevision.manifest import Preprocess

# An INT8 graph on the CPU must be worth its error.
_LEAST_SPEED_UP = 1.1


def verify(
    emitted: Emitted,
    preprocess: Preprocess,
    images: CalibrationImages | None,
    warnings: list[str],
    batches: dict[str, str],
) -> dict[str, Any]:
    """Run every graph, TensorRT's with each float result rounded to half as a GPU does, and compare it with the float
    one. One that two pictures at once show to mix them goes back to one picture.

    Args:
        warnings: gets another one for each graph that is further off than its precision explains.
        batches: what `free_batches` said; a graph that goes back is noted here.

    Returns:
        `pictures`, and per emitted graph what verification.compare says.

    Raises:
        ModelError: a graph does not run, or gives NaN or infinite values.
    """
    inputs = {preprocess: input_tensors(preprocess, images)}
    count = len(inputs[preprocess])
    if count == 1:  # two at once need two
        inputs[preprocess].append(np.flip(inputs[preprocess][0]).copy())
    facts: dict[str, Any] = {
        "pictures": f"{count} {'drawn, seeded ones' if images is None else 'of the calibration pictures'}"
    }
    outputs = {}
    for name in list(emitted.graphs):
        own = emitted.infos[name].preprocess or preprocess
        if own not in inputs:
            inputs[own] = input_tensors(own, images)
        try:
            typed = name.startswith("tensorrt")
            graph = rounded_graph(emitted.graphs[name]) if typed else emitted.graphs[name]
            session = open_graph(graph, exact=typed)
            outputs[name] = run_all(session, inputs[own])
        except ModelError as error:
            raise ModelError(f"{name}: {error}") from error
        if emitted.infos[name].dynamic_batch:
            obstacle = keep_batch(emitted, name, session, inputs[own][:2], outputs[name][:2])
            batches.update({name: f"one picture: {obstacle}"} if obstacle else {})
        if name != "model.onnx":
            facts[name] = compare(outputs["model.onnx"][:count], outputs.pop(name)[:count])
            warnings += [f"{name}: {doubt}" for doubt in concerns(emitted.infos[name].precision, facts[name])]
    return facts


def choose_cpu_graph(
    emitted: Emitted,
    preprocess: Preprocess,
    images: CalibrationImages | None,
    likeness: Mapping[str, Any],
    refuses: Callable[[Emitted], str] | None = None,
) -> tuple[str, str]:
    """The graph for ONNX Runtime's CPU provider, and why that one. An INT8 one that is not worth keeping is dropped
    from `emitted`.

    Args:
        emitted: all graphs.
        preprocess, images: for a picture to measure with.
        likeness: what `verify` found.
        refuses: asked last; says why the accuracy budget forbids cpu.onnx, or nothing.
    """
    if "cpu.onnx" not in emitted.graphs:
        return "model.onnx", "the bundle has no INT8 graph for the CPU"
    own_likeness = likeness["cpu.onnx"]
    doubts = concerns(emitted.infos["cpu.onnx"].precision, own_likeness)
    doubts = doubts or noisier(own_likeness, likeness["tensorrt.onnx"])
    if not doubts:
        own = emitted.infos["cpu.onnx"].preprocess or preprocess
        tensors = [input_tensors(spec, images, 1)[0] for spec in (preprocess, own)]
        ratio = speed_ratio(emitted.graphs["model.onnx"], emitted.graphs["cpu.onnx"], *tensors)
        measured = f"INT8 ran {ratio:.2f} times as fast as float, one thread, on {cpu_name()}"
        loss = refuses(emitted) if refuses is not None and ratio >= _LEAST_SPEED_UP else ""
        if ratio >= _LEAST_SPEED_UP and not loss:
            return "cpu.onnx", measured
        doubts = [f"INT8 misses the accuracy budget: {loss}" if loss else measured]
    del emitted.graphs["cpu.onnx"], emitted.infos["cpu.onnx"]
    return "model.onnx", f"float, because {'; '.join(doubts)}"
