"""A trained network as an ONNX file, in the raw form in which users bring theirs, with its metadata."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import nn

import detector
import segmenter
from edgevision.files import atomic_path
from edgevision.synthetic import DETECTION_CLASSES, SEGMENTATION_CLASSES

OPSET = 17
FILE_NAMES = {"detector": "aerial_detector.onnx", "segmenter": "aerial_segmenter.onnx"}
METADATA_KEY = "edgevision"

_PREPROCESS = {
    "resize": "stretch",
    "color": "rgb",
    "mean": [127.5, 127.5, 127.5],
    "std": [127.5, 127.5, 127.5],
    "pad_value": 0,
}


def export_onnx(network: nn.Module, path: Path, facts: dict[str, Any]) -> None:
    """Write `network` (a Detector or a Segmenter) to `path`; `facts` are added to its metadata."""
    width, height = segmenter.INPUT_WH if isinstance(network, segmenter.Segmenter) else detector.INPUT_WH
    outputs = ["logits"] if isinstance(network, segmenter.Segmenter) else ["scores", "boxes"]
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # torch's newer exporter needs onnxscript; these networks hold nothing that the older one cannot say.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network.eval(),
            (torch.zeros(1, 3, height, width),),
            buffer,  # type: ignore[arg-type]
            input_names=["image"],
            output_names=outputs,
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load_from_string(buffer.getvalue())
    if isinstance(network, detector.Detector):
        _add_priors(model, network)
    metadata = {**_describe(network), **facts}
    model.metadata_props.add(key=METADATA_KEY, value=json.dumps(metadata))
    onnx.checker.check_model(model, full_check=True)
    with atomic_path(path) as beside:
        onnx.save(model, str(beside))


def _add_priors(model: onnx.ModelProto, network: detector.Detector) -> None:
    """The priors as a third output, so that the file can be decoded without this source code."""
    priors = network.priors.numpy()
    model.graph.initializer.append(numpy_helper.from_array(priors, "prior_boxes"))
    model.graph.node.append(onnx.helper.make_node("Identity", ["prior_boxes"], ["priors"], name="priors"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("priors", onnx.TensorProto.FLOAT, priors.shape))


def _describe(network: nn.Module) -> dict[str, Any]:
    if isinstance(network, segmenter.Segmenter):
        return {"family": "semantic", "labels": list(SEGMENTATION_CLASSES), "preprocess": _PREPROCESS}
    return {
        "family": "ssd",
        "labels": list(DETECTION_CLASSES),
        "preprocess": _PREPROCESS,
        "ssd": {
            "activation": "sigmoid",
            "background": False,
            "coder": "torchvision",
            "variances": list(detector.VARIANCES),
            "priors_format": "cxcywh",
        },
        "nms": {"iou_threshold": 0.5, "confidence": 0.3},
    }
