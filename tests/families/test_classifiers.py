"""Classifiers of timm and torchvision, exported by torch.onnx, against the softmax of their own scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.families.comparing import MEAN, STD, bundle, enliven, load, pictures, tensor, to_onnx

pytestmark = pytest.mark.usefixtures("torchvision_ops")
WH, CLASSES = (96, 96), 12
# Network -> whether torch.onnx's newer exporter writes it, or its tracing one.
NETWORKS = {
    "torchvision/mobilenet_v3_small": False,
    "torchvision/shufflenet_v2_x0_5": True,
    "torchvision/squeezenet1_1": False,
    "timm/mobilenetv3_small_050": True,
    "timm/efficientnet_lite0": False,
    "timm/repvgg_a0": False,
    "timm/convnext_atto": True,
    "timm/vit_tiny_patch16_224": False,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_classifiers(name: str, seed: int, tmp_path: Path) -> None:
    import timm
    import torch
    import torchvision

    torch.manual_seed(seed)
    package, kind = name.split("/")
    if package == "timm":
        size = {"img_size": WH[0]} if "vit_tiny" in kind else {}
        network = timm.create_model(kind, pretrained=False, num_classes=CLASSES, **size)
    else:
        network = getattr(torchvision.models, kind)(weights=None, num_classes=CLASSES)
    shown = torch.cat([tensor(p, MEAN, STD) for p in pictures(seed, WH)])
    last = [m for m in network.modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))][-1]
    enliven(network, lambda: network(shown), {last: (0.0, 2.0)})
    path = to_onnx(network, (shown[:1],), tmp_path / "model.onnx", dynamo=NETWORKS[name])
    flags = {"mean": tuple(255 * m for m in MEAN), "std": tuple(255 * s for s in STD)}
    with load(bundle(path, **flags)) as model:
        for picture in pictures(seed, WH):
            with torch.no_grad():
                expected = network(tensor(picture, MEAN, STD)).softmax(dim=1)[0].numpy()
            np.testing.assert_allclose(model(picture).scores, expected, atol=1e-4)
            assert expected.std() > 0.01
