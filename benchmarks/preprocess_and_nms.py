"""Preprocessing and NMS on the CPU against what else a Python program could call, in turn in one process, one thread.

    python -m benchmarks.preprocess_and_nms [--rounds N] [--json FILE] [--quiet]

Preprocessing: a BGR picture to a letterboxed float32 RGB tensor in 0..1, against cv2.dnn.blobFromImage on the resized
picture and against the usual numpy chain. NMS: from `boxes` and `scores` of a detector with 8400 boxes and 80 classes
to what is kept, against cv2.dnn.NMSBoxesBatched behind the fastest selection we know, and against ONNX's
NonMaxSuppression. Every way must give the same pixels and boxes. Ends with 1 when a cv2 or numpy way takes less than
0.9 of our time (median over the rounds of its time to ours in the same round: on the smallest input the resize, which
is the same for all, is most of it); ONNX's operator, which is compiled for this one job, is shown for comparison.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgevision.cli.output import finish, table
from edgevision.kernels.cpu import Preprocessor, suppress
from edgevision.manifest import Nms, Preprocess

Ways = dict[str, Callable[[], Any]]
OURS = "edgevision"
_AT_LEAST = 0.9
NMS = Nms(iou_threshold=0.45, confidence=0.25, max_detections=300)


def interleaved(ways: Ways, rounds: int) -> dict[str, tuple[float, float]]:
    """Median milliseconds of the processor that each way takes, all called in turn, and the median of its times to
    ours in the same round. Every way runs in this thread alone, so other programs' turns do not count."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.thread_time()
            way()
            times[name].append((time.thread_time() - start) * 1e3)
    return {
        name: (statistics.median(values), statistics.median(a / b for a, b in zip(values, times[OURS], strict=True)))
        for name, values in times.items()
    }


def preprocessing(width: int, height: int, side: int) -> Ways:
    """Three ways from a picture to the same tensor."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    preprocessor = Preprocessor(Preprocess("image", (side, side), resize="letterbox", std=(255.0,) * 3))
    tensor = np.empty(preprocessor.shape, np.float32)
    placement = preprocessor(image, tensor[0])
    (cw, ch), (ox, oy) = placement.content_wh, placement.offset_xy

    def blob() -> NDArray[np.float32]:
        small = cv2.resize(image, (cw, ch))
        canvas = cv2.copyMakeBorder(
            small, oy, side - ch - oy, ox, side - cw - ox, cv2.BORDER_CONSTANT, value=(114, 114, 114)
        )
        result: NDArray[np.float32] = cv2.dnn.blobFromImage(canvas, 1 / 255, swapRB=True)
        return result

    def chain() -> NDArray[np.float32]:
        canvas = np.full((side, side, 3), 114, np.uint8)
        canvas[oy : oy + ch, ox : ox + cw] = cv2.resize(image, (cw, ch))
        return np.ascontiguousarray(canvas[:, :, ::-1].transpose(2, 0, 1)[None]).astype(np.float32) / np.float32(255)

    for way in (blob, chain):
        np.testing.assert_allclose(way(), tensor, atol=1e-6)
    return {OURS: lambda: preprocessor(image, tensor[0]), "cv2 blobFromImage": blob, "numpy chain": chain}


def suppression(candidates: int) -> Ways:
    """Three ways from 8400 boxes x 80 classes, about six boxes on each object, to the same boxes."""
    random = np.random.default_rng(candidates)
    objects = max(1, candidates // 6)
    which = random.integers(0, objects, candidates)
    centre = random.uniform(40, 600, (objects, 2))[which] + random.normal(0, 4, (candidates, 2))
    size = random.uniform(20, 120, (objects, 2))[which] * random.uniform(0.85, 1.15, (candidates, 2))
    rows = random.permutation(8400)[:candidates]
    boxes = np.tile(np.array([0, 0, 10, 10], np.float32), (8400, 1))
    boxes[rows] = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
    scores = random.uniform(0, 0.2, (8400, 80)).astype(np.float32)
    scores[rows, random.integers(0, 80, objects)[which]] = random.permutation(np.linspace(0.3, 0.95, candidates))

    def opencv() -> NDArray[np.float32]:
        best = scores.max(axis=1)
        keep = np.flatnonzero(best > NMS.confidence)
        xywh = boxes[keep]
        xywh[:, 2:] -= xywh[:, :2]
        classes = scores[keep].argmax(axis=1).astype(np.int32)
        chosen = cv2.dnn.NMSBoxesBatched(xywh, best[keep], classes, NMS.confidence, NMS.iou_threshold)
        return boxes[keep[chosen[: NMS.max_detections]]]

    nodes = [
        helper.make_node("Transpose", ["scores"], ["by_class"], perm=[0, 2, 1]),
        helper.make_node("NonMaxSuppression", ["boxes", "by_class", "limit", "iou", "least"], ["kept"]),
    ]
    constants = {
        "limit": np.array([NMS.max_detections]),
        "iou": np.array([NMS.iou_threshold], np.float32),
        "least": np.array([NMS.confidence], np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "nms",
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, 8400, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 8400, 80]),
        ],
        [helper.make_tensor_value_info("kept", TensorProto.INT64, ["n", 3])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def operator() -> NDArray[np.float32]:
        kept = session.run(None, {"boxes": boxes[None], "scores": scores[None]})[0]
        order = np.argsort(-scores[kept[:, 2], kept[:, 1]], kind="stable")[: NMS.max_detections]
        return boxes[kept[order, 2]]

    ours = suppress(boxes, scores, NMS)[0]
    for way in (opencv, operator):
        np.testing.assert_array_equal(way(), ours)
    return {
        OURS: lambda: suppress(boxes, scores, NMS),
        "cv2 NMSBoxesBatched": opencv,
        "ONNX NonMaxSuppression": operator,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=60, metavar="N")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    problems = {
        f"{width}x{height} to {side}": preprocessing(width, height, side)
        for width, height in ((1280, 720), (1920, 1080))
        for side in (320, 640)
    }
    problems |= {f"{count} candidates of 8400 x 80": suppression(count) for count in (50, 300, 1000, 8400)}
    results = {name: interleaved(ways, args.rounds) for name, ways in problems.items()}
    rows = [
        [f"{name}: {way}", f"{milliseconds:.3f}", f"{ratio:.2f}"]
        for name, result in results.items()
        for way, (milliseconds, ratio) in result.items()
    ]
    data = {
        kind: {name: {way: values[i] for way, values in result.items()} for name, result in results.items()}
        for i, kind in enumerate(("milliseconds", "times_ours"))
    }
    finish(args, data, table(["one thread", "median ms", "times ours"], rows))
    ratios = [ratio for result in results.values() for way, (_, ratio) in result.items() if not way.startswith("ONNX")]
    return 0 if min(ratios) >= _AT_LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
