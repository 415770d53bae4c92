"""TensorRT's suppression plugin as a standard operator, so that the head for suppression in the graph can cut there.

EfficientNMS_TRT (boxes [1,N,4], scores [1,N,C]; iou_threshold, score_threshold, max_output_boxes, box_coding,
score_activation) becomes NonMaxSuppression. Source: NVIDIA/TensorRT, plugin/efficientNMSPlugin.
"""

from __future__ import annotations

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgevision.errors import ModelError
from edgevision.export.graph import attribute
from edgevision.export.metadata import KEY

_PLUGIN = "EfficientNMS_TRT"


def replace_suppression(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model itself, or one whose EfficientNMS_TRT is a NonMaxSuppression with a single output of selected rows.

    Raises:
        ModelError: the plugin suppresses across classes, which the operator cannot say, or decodes anchors.
    """
    plugins = [node for node in model.graph.node if node.op_type == _PLUGIN and node.domain == "TRT"]
    if len(plugins) != 1 or len(plugins[0].input) < 2 or not plugins[0].output:
        return model
    node = plugins[0]
    if attribute(node, "class_agnostic", 0) == 1 or len(node.input) > 2:
        raise ModelError(
            f"{_PLUGIN} {node.name!r} suppresses across classes or decodes anchors itself; export the model without it"
        )
    taken = {name for n in model.graph.node for name in (*n.input, *n.output)}

    def fresh(stem: str) -> str:
        name = f"{stem}_{sum(other.startswith(stem) for other in taken)}"
        taken.add(name)
        return name

    boxes, scores = node.input[:2]
    rows, selected = fresh("suppression_scores"), fresh("suppression_selected")
    made = []
    if attribute(node, "score_activation", 0) == 1:
        probability = fresh("suppression_probability")
        made.append(helper.make_node("Sigmoid", [scores], [probability]))
        scores = probability
    made.append(helper.make_node("Transpose", [scores], [rows], perm=[0, 2, 1]))
    settings = []
    for key, value in (
        ("max_output_boxes", np.int64(attribute(node, "max_output_boxes", 100))),
        ("iou_threshold", np.float32(attribute(node, "iou_threshold", 0.5))),
        ("score_threshold", np.float32(attribute(node, "score_threshold", 0.25))),
    ):
        settings.append(fresh(f"suppression_{key}"))
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), settings[-1]))
    coding = int(attribute(node, "box_coding", 0) == 1)
    made.append(helper.make_node("NonMaxSuppression", [boxes, rows, *settings], [selected], center_point_box=coding))
    kept = [n for n in model.graph.node if n is not node]
    del model.graph.node[:]
    model.graph.node.extend([*kept, *made])
    dropped = set(node.output)
    others = [output for output in model.graph.output if output.name not in dropped]
    del model.graph.output[:]
    if all(entry.key != KEY for entry in model.metadata_props):
        # The operator's limit holds for each class, the plugin's for all together.
        noted = {"nms": {"max_detections": int(attribute(node, "max_output_boxes", 100))}}
        model.metadata_props.add(key=KEY, value=json.dumps(noted))
    model.graph.output.extend([helper.make_tensor_value_info(selected, TensorProto.INT64, [None, 3]), *others])
    return model
