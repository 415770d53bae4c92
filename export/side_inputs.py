"""Inputs beside the picture that only say how large it was: they become constants, so that boxes come out in pixels of
the network's input.

RT-DETR and D-FINE take `orig_target_sizes` (width, height; their boxes are multiplied by it); PaddleDetection's exports
take `im_shape` (height, width of the input) and `scale_factor` (input size over picture size, which boxes are divided
by).
"""

from __future__ import annotations

import numpy as np
from onnx import helper, numpy_helper

from edgevision.errors import ModelError
from edgevision.export.graph import Graph

_SIZE_INPUTS = ("orig_target_sizes", "im_shape", "scale_factor")


def fix_side_inputs(graph: Graph, input_wh: tuple[int, int]) -> dict[str, list[float]]:
    """Turn them into constants and return their values.

    Args:
        graph: edited in place.
        input_wh: size of the picture input, pixels.

    Raises:
        ModelError: there is another input, or one of these with an unknown shape.
    """
    width, height = input_wh
    values = {"orig_target_sizes": (width, height), "im_shape": (height, width), "scale_factor": (1, 1)}
    fixed: dict[str, list[float]] = {}
    for name in graph.inputs:
        shape = graph.shape(name) or ()
        if len(shape) == 4:
            continue
        kind = graph.dtype(name)
        if name not in values or shape != (1, 2) or kind is None:
            raise ModelError(
                f"the model takes {name!r} {list(shape)} beside the picture; only {', '.join(_SIZE_INPUTS)} [1,2] are "
                "known, which say how large the picture was. Export it with the picture as the only input"
            )
        fixed[name] = [float(value) for value in values[name]]
        entry = next(e for e in graph.proto.input if e.name == name)
        graph.proto.input.remove(entry)
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        graph.proto.initializer.append(numpy_helper.from_array(np.array([values[name]], dtype), name))
    graph.reindex()
    return fixed
