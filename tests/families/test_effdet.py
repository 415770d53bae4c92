"""EfficientDet as rwightman's effdet has it, exported by torch.onnx as its maps, against effdet's own predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.families.comparing import (
    MEAN,
    STD,
    Boxes,
    assert_same_boxes,
    bundle,
    enliven,
    load,
    pictures,
    tensor,
    to_onnx,
)

pytestmark = pytest.mark.usefixtures("torchvision_ops")
CLASSES, THRESHOLD = 7, 0.4


@pytest.mark.parametrize(("name", "wh"), [("tf_efficientdet_lite0", (128, 128)), ("efficientdet_d0", (256, 128))])
def test_effdet(name: str, wh: tuple[int, int], seed: int, tmp_path: Path) -> None:
    import effdet
    import torch

    torch.manual_seed(seed)
    network = effdet.create_model(
        name, pretrained=False, pretrained_backbone=False, num_classes=CLASSES, image_size=wh[::-1]
    )
    shown = pictures(seed, wh)
    tensors = torch.cat([tensor(picture, MEAN, STD) for picture in shown])
    spread = {network.class_net.predict.conv_pw: (-3.0, 1.5), network.box_net.predict.conv_pw: (0.0, 0.7)}
    enliven(network, lambda: network(tensors), spread)
    path = to_onnx(network, (tensors[:1],), tmp_path / "model.onnx")
    theirs = effdet.DetBenchPredict(network).eval()
    theirs.max_det_per_image = 2000
    flags = {"mean": tuple(255 * m for m in MEAN), "std": tuple(255 * s for s in STD)}
    made = bundle(path, head={"anchor_scale": str(network.config.anchor_scale)}, multi_label=True, **flags)
    with load(made, confidence=THRESHOLD, max_detections=2000) as model:
        assert model.manifest.family == "efficientdet"
        for picture in shown:
            with torch.no_grad():
                found = theirs(tensor(picture, MEAN, STD))[0].numpy()
            found = found[found[:, 4] > THRESHOLD]
            found[:, :4] = found[:, :4].clip(0, wh * 2)  # ours end at the picture's edge
            found = found[(found[:, 2:4] > found[:, :2]).all(axis=1)]
            boxes = Boxes(found[:, :4], found[:, 4], found[:, 5].astype(np.int64) - 1)
            assert_same_boxes(model(picture), boxes, threshold=THRESHOLD)
