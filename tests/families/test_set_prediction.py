"""Set prediction as transformers has it, random weights, exported by torch.onnx (whose tracing
exporter changes the numbers of some of them: not used), against the image processors'
post-processing of the same outputs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

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
WH, CLASSES, QUERIES, THRESHOLD = (128, 96), 5, 30, 0.4
SMALL = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
HEADS = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
# Family -> how its class scores become probabilities, and what makes the network small.
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "Detr": ("softmax", {**SMALL, **HEADS}),
    "Yolos": ("softmax", {}),
    "ConditionalDetr": ("sigmoid", {**SMALL, **HEADS}),
    "DeformableDetr": ("sigmoid", {**SMALL, **HEADS}),
    "RTDetr": ("sigmoid", {}),
    "RTDetrV2": ("sigmoid", {}),
    "DFine": ("sigmoid", {}),
}


def configuration(name: str) -> Any:
    """The family's configuration, as small as it goes."""
    import transformers

    common = {"num_labels": CLASSES}
    resnet = {"depths": [1, 1, 1, 1], "embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "layer_type": "basic"}
    if name == "Yolos":
        sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        return transformers.YolosConfig(
            **common, **sizes, image_size=WH[::-1], num_detection_tokens=QUERIES, use_mid_position_embeddings=False
        )
    build = getattr(transformers, f"{name}Config")
    settings = {**common, "num_queries": QUERIES, **NETWORKS[name][1]}
    if name in ("RTDetr", "RTDetrV2", "DFine"):
        backbone = transformers.RTDetrResNetConfig(
            **resnet, out_features=["stage2", "stage3", "stage4"], num_channels=3
        )
        sizes = {"encoder_hidden_dim": 32, "d_model": 32, "decoder_layers": 2, "encoder_ffn_dim": 48}
        sizes |= {"decoder_ffn_dim": 48, "encoder_in_channels": [32, 48, 64], "decoder_in_channels": [32, 32, 32]}
        sizes |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
        return build(**{**settings, **sizes}, backbone_config=backbone)
    backbone = transformers.ResNetConfig(
        **resnet, out_features=["stage2", "stage3", "stage4"] if "Deform" in name else ["stage4"]
    )
    return build(
        **settings, use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=backbone
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_transformers(name: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    import transformers

    class Outputs(torch.nn.Module):
        """Only what is for use."""

        def __init__(self, network: Any) -> None:
            super().__init__()
            self.network = network

        def forward(self, pixel_values: Any) -> Any:
            found = self.network(pixel_values)
            return found.logits, found.pred_boxes

    torch.manual_seed(seed)
    made = getattr(transformers, f"{name}ForObjectDetection")
    if name in ("RTDetrV2", "DFine"):
        # A mere check of shapes, which the exporter cannot write.
        monkeypatch.setattr(sys.modules[made.__module__], "torch_compilable_check", lambda *_, **__: None)
    network = made(configuration(name))
    activation = NETWORKS[name][0]
    shown = pictures(seed, WH)
    tensors = torch.cat([tensor(picture, MEAN, STD) for picture in shown])
    widths = {CLASSES + (activation == "softmax"): (-0.5, 2.0), 4: (0.0, 1.0)}
    linear = [m for m in network.modules() if isinstance(m, torch.nn.Linear)]
    last = {m: widths[m.out_features] for m in linear if m.out_features in widths}
    enliven(network, lambda: network(tensors), last)
    path = to_onnx(
        Outputs(network), (tensors[:1],), tmp_path / "model.onnx", dynamo=True, output_names=["logits", "pred_boxes"]
    )
    processor = getattr(transformers, f"{name.replace('V2', '').replace('DFine', 'RTDetr')}ImageProcessor")()
    # The others report as many as there are queries, as ours do.
    limit = {"top_k": QUERIES * CLASSES} if name in ("ConditionalDetr", "DeformableDetr") else {}
    flags = {"mean": tuple(255 * m for m in MEAN), "std": tuple(255 * s for s in STD)}
    family = {"family": "detr"} if name == "DFine" else {}  # its boxes do not end in a Sigmoid
    with load(
        bundle(path, head={"activation": activation}, **family, **flags),
        confidence=THRESHOLD,
        max_detections=limit.get("top_k"),
    ) as model:
        assert model.manifest.family == "detr"
        for picture in shown:
            with torch.no_grad():
                outputs = network(tensor(picture, MEAN, STD))
            found = processor.post_process_object_detection(outputs, THRESHOLD, [WH[::-1]], **limit)[0]
            edges = np.array([0, 0, 0, 0]), np.array(WH * 2)  # ours end at the picture's edge
            theirs = Boxes(found["boxes"].numpy().clip(*edges), found["scores"].numpy(), found["labels"].numpy())
            assert_same_boxes(model(picture), theirs, threshold=THRESHOLD)
