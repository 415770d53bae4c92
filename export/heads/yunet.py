"""YuNet faces: twelve outputs, four per stride 8, 16, 32: class, objectness, box offsets and five landmarks.

Source: Wu et al., "YuNet: A Tiny Millisecond-level Face Detector" (2023); ShiqiYu/libfacedetection.train and OpenCV's
FaceDetectorYN: score = sqrt(class * objectness), centre = (cell + offset) * stride, size = exp(log size) * stride,
landmark = (cell + offset) * stride; BGR 0..255, padded right and below with 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from edgevision.export.box_coding import append_offsets, cells
from edgevision.export.decode import Decode, mark_decode
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel
from edgevision.manifest import Nms

_STRIDES = (8, 16, 32)
_POINTS = 5
_WIDTHS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 2 * _POINTS}
_LARGEST_LOG_SIZE = 10.0


class YunetHead:
    """Outputs named cls_8 ... kps_32."""

    name = "yunet"
    about = "YuNet faces with five landmarks: outputs cls, obj, bbox, kps at strides 8, 16, 32"
    options: Mapping[str, str] = {}

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        graph = model.graph
        counts = {stride: len(cells(model.image.wh, [stride])[0]) for stride in _STRIDES}
        expected = {
            f"{part}_{stride}": (1, counts[stride], width) for part, width in _WIDTHS.items() for stride in _STRIDES
        }
        got = {name: graph.shape(name) for name in graph.outputs}
        if got != expected:
            return Refusal(f"expected the outputs {', '.join(expected)}, one row per cell; got {', '.join(got)}")
        return Match("outputs cls, obj, bbox and kps at strides 8, 16, 32")

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        graph, decode = model.graph, Decode(model.graph)
        mark_decode(graph, graph.outputs)
        joined = {
            part: decode.op("Concat", *(f"{part}_{stride}" for stride in _STRIDES), stem=part, axis=1)
            for part in _WIDTHS
        }
        grid, stride = cells(model.image.wh, _STRIDES)
        priors = np.concatenate([grid * stride, stride, stride], axis=1)
        boxes = append_offsets(decode, joined["bbox"], priors, (1.0,) * 4, largest_log_size=_LARGEST_LOG_SIZE)
        bounds = [
            decode.constant(f"scores/{word}", np.array(value, np.float32)) for word, value in (("0", 0), ("1", 1))
        ]
        bounded = [decode.op("Clip", joined[part], *bounds, stem=f"scores/{part}") for part in ("cls", "obj")]
        product = decode.op("Mul", *bounded, stem="scores/product")
        scores = decode.op("Sqrt", product, stem="scores/probability")
        scale = decode.constant("keypoints/stride", stride.repeat(2 * _POINTS, axis=1).astype(np.float32))
        origin = decode.constant("keypoints/cells", np.tile(grid * stride, (1, _POINTS)).astype(np.float32))
        flat = decode.op("Add", decode.op("Mul", joined["kps"], scale, stem="keypoints/scaled"), origin, stem="kps/xy")
        pairs = decode.constant("keypoints/pairs", np.array([0, 0, _POINTS, 2]))
        keypoints = decode.op("Reshape", flat, pairs, stem="keypoints/points")
        float32 = onnx.TensorProto.FLOAT
        decode.finish({"boxes": (boxes, float32), "scores": (scores, float32), "keypoints": (keypoints, float32)})
        preprocess = PreprocessDefaults(
            "YuNet", resize="letterbox-topleft", color="bgr", mean=(0.0,) * 3, std=(1.0,) * 3, pad_value=0.0
        )
        nms = Nms(iou_threshold=0.3, confidence=0.6)
        return NormalForm("keypoints", 1, preprocess, nms, {"points": _POINTS}, labels=("face",))


HEAD = YunetHead()
