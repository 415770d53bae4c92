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

import detector
import metadata
import segmenter
from edgevision.files import atomic_path

OPSET = 17


def export_onnx(network: detector.Detector | segmenter.Segmenter, path: Path, facts: dict[str, Any]) -> None:
    """Write `network` to `path`; `facts` are added to its metadata."""
    is_detector = isinstance(network, detector.Detector)
    width, height = detector.INPUT_WH if is_detector else segmenter.INPUT_WH
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # torch's newer exporter needs onnxscript; these networks hold nothing that the older one cannot say.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network.eval(),
            (torch.zeros(1, 3, height, width),),
            buffer,  # type: ignore[arg-type]
            input_names=["image"],
            output_names=["scores", "boxes"] if is_detector else ["logits"],
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load_from_string(buffer.getvalue())
    if isinstance(network, detector.Detector):
        _add_priors(model, network)
    description = metadata.DESCRIPTIONS["detector" if is_detector else "segmenter"]
    model.metadata_props.add(key=metadata.KEY, value=json.dumps({**description, **facts}))
    onnx.checker.check_model(model, full_check=True)
    with atomic_path(path) as beside:
        onnx.save(model, str(beside))


def _add_priors(model: onnx.ModelProto, network: detector.Detector) -> None:
    """The priors as a third output, so that the file can be decoded without this source code."""
    priors = network.priors.numpy()
    model.graph.initializer.append(numpy_helper.from_array(priors, "prior_boxes"))
    model.graph.node.append(onnx.helper.make_node("Identity", ["prior_boxes"], ["priors"], name="priors"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("priors", onnx.TensorProto.FLOAT, priors.shape))
