"""torchvision's detectors, segmenters and classifiers, exported by torch.onnx, against torchvision's own results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.families.comparing import Boxes, assert_same_boxes, bundle, enliven, load, pictures, tensor, to_onnx

pytestmark = pytest.mark.usefixtures("torchvision_ops")
THRESHOLD, CLASSES = 0.5, 8


def detector(name: str, seed: int) -> tuple[Any, tuple[int, int], dict[Any, tuple[float, float]]]:
    """A network, the picture's size and its last layers with what they shall give."""
    import torch
    from torchvision.models import detection
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    torch.manual_seed(seed)
    if name.startswith("ssd"):
        settings = {"weights": None, "weights_backbone": None, "num_classes": CLASSES, "score_thresh": THRESHOLD}
        network = getattr(detection, name)(**settings, detections_per_img=3000, topk_candidates=100_000)
        side = 300 if name == "ssd300_vgg16" else 320
        heads = network.head
        last = [
            [m[-1] if isinstance(m, torch.nn.Sequential) else m for m in head.module_list]
            for head in (heads.classification_head, heads.regression_head)
        ]
        return network, (side, side), {**dict.fromkeys(last[0], (0.0, 1.5)), **dict.fromkeys(last[1], (0.0, 1.5))}
    wh = (160, 128)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        trainable_layers=5,
        norm_layer=torch.nn.BatchNorm2d,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    build = detection.FCOS if name == "fcos" else detection.RetinaNet
    network = build(
        backbone,
        CLASSES,
        min_size=128,
        max_size=160,
        score_thresh=THRESHOLD,
        detections_per_img=3000,
        topk_candidates=100_000,
    )
    heads = network.head
    spread = {
        heads.classification_head.cls_logits: (-2.5, 1.5),
        heads.regression_head.bbox_reg: (0.3, 0.5) if name.startswith("fcos") else (0.0, 0.7),
    }
    if name.startswith("fcos"):
        spread[heads.regression_head.bbox_ctrness] = (1.0, 1.0)
    return network, wh, spread


@pytest.mark.parametrize("name", ["ssd300_vgg16", "ssdlite320_mobilenet_v3_large", "retinanet", "fcos"])
def test_detectors_exported_whole(name: str, seed: int, tmp_path: Path) -> None:
    import torch

    network, wh, spread = detector(name, seed)
    shown = pictures(seed, wh)
    tensors = [tensor(picture)[0] for picture in shown]
    enliven(network, lambda: network(tensors), spread)
    path = to_onnx(network, ([tensors[0]],), tmp_path / "model.onnx")
    background = name.startswith("ssd")
    with load(bundle(path), confidence=THRESHOLD, max_detections=3000) as model:
        for picture, x in zip(shown, tensors, strict=True):
            with torch.no_grad():
                found = {key: value.numpy() for key, value in network([x])[0].items()}
            boxes = found["boxes"]
            area = (boxes[:, 2:] > boxes[:, :2]).all(
                axis=1
            )  # torchvision reports what lies outside as lines and points
            theirs = Boxes(boxes[area], found["scores"][area], found["labels"][area] - background)
            assert_same_boxes(model(picture), theirs, threshold=THRESHOLD)
