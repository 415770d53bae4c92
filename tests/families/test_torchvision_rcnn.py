"""torchvision's two-stage detectors, exported whole by torch.onnx, against torchvision's own results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.families.comparing import Boxes, assert_same_boxes, bundle, enliven, load, pictures, tensor, to_onnx

pytestmark = pytest.mark.usefixtures("torchvision_ops")
THRESHOLD, CLASSES, WH = 0.3, 8, (160, 128)


def network(kind: str, seed: int) -> Any:
    import torch
    from torchvision.models import detection
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    torch.manual_seed(seed)
    settings = {"num_classes": CLASSES + 1, "min_size": WH[1], "max_size": WH[0], "box_detections_per_img": 20}
    if kind == "faster":
        return detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, **settings)
    norm = torch.nn.BatchNorm2d
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5, norm_layer=norm)
    return detection.MaskRCNN(backbone, rpn_post_nms_top_n_test=100, **settings)


@pytest.mark.parametrize("kind", ["faster", "mask"])
def test_two_stage_detectors_exported_whole(kind: str, seed: int, tmp_path: Path) -> None:
    import torch

    made = network(kind, seed)
    shown = pictures(seed, WH)
    tensors = [tensor(picture)[0] for picture in shown]
    predictor = made.roi_heads.box_predictor
    # Proposals first: the second stage sees others once the first one answers differently.
    enliven(made, lambda: made(tensors), {made.rpn.head.cls_logits: (-1.0, 1.5), made.rpn.head.bbox_pred: (0.0, 0.3)})
    spread = {predictor.cls_score: (0.0, 2.0), predictor.bbox_pred: (0.0, 1.0)}
    if kind == "mask":
        spread[made.roi_heads.mask_predictor.mask_fcn_logits] = (0.0, 2.0)
    enliven(made, lambda: made(tensors), spread)
    names = ["boxes", "labels", "scores", "masks"][: 4 if kind == "mask" else 3]
    path = to_onnx(made, ([tensors[0]],), tmp_path / "model.onnx", output_names=names)
    with load(bundle(path), confidence=THRESHOLD) as model:
        for picture, x in zip(shown, tensors, strict=True):
            with torch.no_grad():
                found = {key: value.numpy() for key, value in made([x])[0].items()}
            sure = found["scores"] > THRESHOLD
            theirs = Boxes(found["boxes"][sure], found["scores"][sure], found["labels"][sure] - 1)
            ours = model(picture)
            assert_same_boxes(ours, theirs, threshold=THRESHOLD)
            if kind == "mask":
                assert ours.mask is not None
                assert ours.mask.any()
                same_masks(ours, theirs, found["masks"][sure, 0] > 0.5)


def same_masks(ours: Any, theirs: Boxes, masks: Any) -> None:
    """Pixel by pixel, but for roundings: a pixel in a thousand of a mask."""
    for box, class_id, mask in zip(theirs.xyxy, theirs.class_id, masks, strict=True):
        near = np.flatnonzero((ours.class_id == class_id) & (np.abs(ours.xyxy - box).max(axis=1) <= 0.1))
        if len(near):  # boxes at the threshold may be missing
            assert min((ours.mask[i] != mask).sum() for i in near) <= 1 + mask.sum() // 1000
