"""Semantic segmenters of torchvision, segmentation-models-pytorch and transformers, exported by torch.onnx: our map of
classes against their own scores, enlarged by their own code where that is left to the user."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.families.comparing import MEAN, STD, bundle, enliven, load, pictures, tensor, to_onnx

pytestmark = pytest.mark.usefixtures("torchvision_ops")
WH, CLASSES = (160, 128), 6
TORCH = {"mean": tuple(255 * m for m in MEAN), "std": tuple(255 * s for s in STD)}


def assert_same_map(network: Any, scores: Callable[[Any], Any], seed: int, path: Path, **flags: Any) -> None:
    """Both agree on at least 99.9 % of the pixels, and there are several classes."""
    import torch

    with load(bundle(path, **TORCH, **flags)) as model:
        assert model.manifest.task == "semantic"
        for picture in pictures(seed, WH):
            with torch.no_grad():
                theirs = scores(network(tensor(picture, MEAN, STD)))[0].numpy()
            expected = theirs.argmax(axis=0) if len(theirs) > 1 else theirs[0] > 0
            ours = model(picture).class_map
            assert ours.shape == expected.shape == WH[::-1]
            assert np.mean(ours == expected) >= 0.999
            assert len(np.unique(expected)) >= 2


@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"])
def test_torchvision(name: str, seed: int, tmp_path: Path) -> None:
    import torch
    from torchvision.models import segmentation

    class Scores(torch.nn.Module):
        """The one output that is for use."""

        def __init__(self, network: Any) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Any) -> Any:
            return self.network(x)["out"]

    torch.manual_seed(seed)
    whole = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=CLASSES)
    network, shown = Scores(whole), torch.cat([tensor(p, MEAN, STD) for p in pictures(seed, WH)])
    enliven(network, lambda: network(shown))
    path = to_onnx(network, (shown[:1],), tmp_path / "model.onnx")
    assert_same_map(network, lambda out: out, seed, path)


# PSPNet and UPerNet: torch.onnx writes their pooling for inputs of other sizes only.
SEGMENTERS = [
    "Unet",
    "UnetPlusPlus",
    "MAnet",
    "Linknet",
    "FPN",
    "PAN",
    "DeepLabV3Plus",
    "Segformer",
]


@pytest.mark.parametrize(("name", "classes"), [*((name, CLASSES) for name in SEGMENTERS), ("Unet", 1), ("FPN", 1)])
def test_segmentation_models_pytorch(name: str, classes: int, seed: int, tmp_path: Path) -> None:
    import segmentation_models_pytorch as smp
    import torch

    torch.manual_seed(seed)
    network = getattr(smp, name)("resnet18", encoder_weights=None, classes=classes)
    shown = torch.cat([tensor(p, MEAN, STD) for p in pictures(seed, WH)])
    enliven(network, lambda: network(shown), {network.segmentation_head[0]: (0.0, 1.0)})
    path = to_onnx(network, (shown[:1],), tmp_path / "model.onnx")
    assert_same_map(network, lambda out: out, seed, path, **({"head": {"mask": "logits"}} if classes == 1 else {}))


def test_transformers_segformer(seed: int, tmp_path: Path) -> None:
    import torch
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

    torch.manual_seed(seed)
    config = SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 64, 96], decoder_hidden_size=64, num_labels=CLASSES
    )
    network = SegformerForSemanticSegmentation(config)
    shown = torch.cat([tensor(p, MEAN, STD) for p in pictures(seed, WH)])
    enliven(network, lambda: network(shown), {network.decode_head.classifier: (0.0, 1.0)})
    path = to_onnx(network, (shown[:1],), tmp_path / "model.onnx", output_names=["logits"])
    processor = SegformerImageProcessor()
    with load(bundle(path, **TORCH)) as model:
        for picture in pictures(seed, WH):
            with torch.no_grad():
                outputs = network(tensor(picture, MEAN, STD))
            expected: NDArray[Any] = processor.post_process_semantic_segmentation(outputs, [WH[::-1]])[0].numpy()
            assert np.mean(model(picture).class_map == expected) >= 0.999
            assert len(np.unique(expected)) >= 2
