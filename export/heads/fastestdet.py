"""FastestDet: one map [1,5+C,h,w] of stride 16: objectness, box, class probabilities.

Source: dog-qiuqiu/FastestDet, DetectHead (Sigmoid over objectness, Softmax over classes) and handle_preds: centre =
(cell + tanh) / map size, size = sigmoid of the picture's size; score = objectness^0.6 * class^0.4 (`weighted`), in some
versions objectness * class (`product`). BGR pixels / 255, stretched.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from edgevision.export.box_coding import append_product, corners, halves
from edgevision.export.decode import Decode, mark_decode
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel, choice
from edgevision.export.output_structure import class_activation
from edgevision.export.rows import map_rows, split_rows
from edgevision.manifest import Nms

_STRIDE = 16
_WEIGHTS = (0.6, 0.4)


class FastestdetHead:
    """One map that joins a Sigmoid, raw numbers and a Softmax."""

    name = "fastestdet"
    about = "FastestDet: one map [1,5+classes,h,w] of stride 16"
    options: Mapping[str, str] = {
        "score": "weighted (objectness^0.6 * class^0.4, the default) or product",
    }

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        graph, (width, height) = model.graph, model.image.wh
        shapes = {name: graph.shape(name) or () for name in graph.outputs}
        name, shape = next(iter(shapes.items()))
        if len(shapes) != 1 or len(shape) != 4 or shape[2:] != (height // _STRIDE, width // _STRIDE) or shape[1] < 6:
            return Refusal(f"expected one map [1,5+C,h,w] of stride 16, got {[list(s) for s in shapes.values()]}")
        maker = graph.producer.get(name)
        parts = list(maker.input) if maker is not None and maker.op_type == "Concat" else []
        ends = [class_activation(graph, part) for part in parts]
        if ends != ["Sigmoid", None, "Softmax"]:
            return Refusal(f"output {name!r} does not join a Sigmoid (objectness), a box and a Softmax (classes)")
        return Match(f"output {name!r} {list(shape)} joins objectness, box and classes", {"output": name})

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        graph, decode, output = model.graph, Decode(model.graph), match.found["output"]
        _, channels, rows, columns = graph.shape(output) or (1, 6, 1, 1)
        classes = channels - 5
        score, source = choice(model, self, "score", ("weighted", "product")) or ("weighted", "default")
        mark_decode(graph, [output])
        parts = split_rows(decode, map_rows(decode, output, channels), (1, 4, classes))
        objectness, box, probabilities = parts
        if score == "weighted":
            objectness, probabilities = (
                decode.op("Pow", part, decode.constant("scores/weight", np.array(w, np.float32)), stem="scores/part")
                for part, w in zip((objectness, probabilities), _WEIGHTS, strict=True)
            )
        scores = append_product(decode, objectness, probabilities)
        centre, size = halves(decode, box)
        wide, high = model.image.wh
        step = np.array([wide / columns, high / rows])
        y, x = np.mgrid[:rows, :columns].reshape(2, -1)
        grid = np.stack([x, y], axis=1) * step

        def constant(stem: str, value: NDArray[np.float64]) -> str:
            return decode.constant(f"boxes/{stem}", value.astype(np.float32))

        shift = decode.op("Mul", decode.op("Tanh", centre, stem="boxes/tanh"), constant("cell", step), stem="boxes/xy")
        point = decode.op("Add", shift, constant("cells", grid), stem="boxes/centre")
        share = decode.op("Sigmoid", size, stem="boxes/share")
        half = decode.op("Mul", share, constant("half_input", np.array([wide, high]) / 2), stem="boxes/half_size")
        float32 = onnx.TensorProto.FLOAT
        decode.finish({"boxes": (corners(decode, point, half), float32), "scores": (scores, float32)})
        preprocess = PreprocessDefaults("FastestDet", color="bgr", mean=(0.0,) * 3, std=(255.0,) * 3)
        facts = {"form": match.reason, "score": f"{score} ({source})"}
        return NormalForm("detection", classes, preprocess, Nms(iou_threshold=0.45, confidence=0.3), facts)


HEAD = FastestdetHead()
