"""Models bent in every way that files get bent: each either exports to the boxes of the straight one, or is refused.

Over 1000 mutants, seeded. Nothing may crash, hang, or give other boxes without a word. Where a mutant states another
picture size, its boxes are those of the network that its exporter would have written for that size.
"""

from __future__ import annotations

import functools
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edgevision.errors import EdgeVisionError
from edgevision.export import ExportConfig, PreparedModel, prepare
from tests.export import (
    cell_kit,
    test_cell_heads,
    test_face_heads,
    test_location_heads,
    test_nms_inside,
    test_rcnn,
    test_rich_heads,
    test_semantic,
    test_set_prediction,
    test_torchvision_whole,
    test_yolact,
)
from tests.export.builders import (
    grid_priors,
    picture_tensor,
    run,
    semantic_model,
    ssd_model,
    ultralytics_metadata,
    yolov8_model,
)
from tests.export.mutations import KINDS, Mutant, cut

Outputs = dict[str, NDArray[Any]]
PIXELS: dict[str, Any] = {"mean": (0.0,) * 3, "std": (255.0,) * 3}
MUTANTS_OF_A_KIND = 3
# Modules whose models are built for the size HW, or for a square of SIDE pixels.
SQUARE = (test_nms_inside, test_set_prediction, test_torchvision_whole)
SIZED = (cell_kit, test_cell_heads, test_face_heads, test_location_heads, test_rich_heads)


@dataclass(frozen=True)
class Case:
    """A model that exports, and the flags it needs."""

    build: Callable[[], onnx.ModelProto]
    config: dict[str, Any] = field(default_factory=dict)


def prior_boxes() -> Any:
    return grid_priors(8, [0.2, 0.4])


CASES = {
    "ssd, flags": Case(
        lambda: ssd_model(priors=prior_boxes()),
        {"head": {"activation": "softmax", "coder": "torchvision", "priors_format": "cxcywh"}, **PIXELS},
    ),
    "ssd, metadata": Case(
        lambda: ssd_model(
            priors=prior_boxes(),
            activation="Sigmoid",
            metadata={
                "family": "ssd",
                "labels": list("abcde"),
                "preprocess": {"mean": 127.5, "std": 127.5},
                "ssd": {"coder": "torchvision", "variances": [0.1, 0.2], "priors_format": "cxcywh"},
            },
        )
    ),
    "yolov8": Case(lambda: yolov8_model(input_hw=cell_kit.HW)),
    "yolov8, metadata": Case(
        lambda: yolov8_model(input_hw=cell_kit.HW, transposed=True, metadata=ultralytics_metadata())
    ),
    "yolox": Case(test_location_heads.yolox_model),
    "yolox, decoded": Case(lambda: test_location_heads.yolox_model(decoded=True)),
    "yolov5": Case(test_location_heads.yolov5_model),
    "yolov6": Case(test_location_heads.yolov6_model),
    "yolov3": Case(test_location_heads.raw_maps_model, {"head": {"anchors": "yolov3-tiny"}}),
    "nanodet": Case(lambda: test_location_heads.nanodet_model(plus=False)),
    "nanodet-plus": Case(lambda: test_location_heads.nanodet_model(plus=True)),
    "yunet": Case(test_location_heads.yunet_model),
    "pose": Case(lambda: test_rich_heads.pose_model(ultralytics_metadata(classes=1, task="pose", kpt_shape="[5, 3]"))),
    "instance": Case(lambda: test_rich_heads.segmentation_model(objectness=True)),
    "final": Case(
        lambda: test_set_prediction.one_to_one(metadata=ultralytics_metadata(imgsz="[64, 64]", end2end="True"))
    ),
    "detr": Case(lambda: test_set_prediction.detr(4), {"head": {"activation": "softmax"}, **PIXELS}),
    "rt-detr": Case(lambda: test_set_prediction.detr(3), {"head": {"activation": "sigmoid"}, **PIXELS}),
    "nms inside": Case(test_nms_inside.tensorflow_model, PIXELS),
    "nms inside, moved": Case(test_nms_inside.yolov7_model, {"head": {"unit": "pixels"}, **PIXELS}),
    "efficient nms": Case(lambda: test_nms_inside.efficient_nms_model(score_activation=1), PIXELS),
    "ppyoloe": Case(lambda: test_cell_heads.ppyoloe_model((8, 16, 32)), PIXELS),
    "picodet": Case(test_cell_heads.picodet_model),
    "centernet": Case(test_cell_heads.centernet_model),
    "fastestdet": Case(test_cell_heads.fastestdet_model),
    "rtmdet, maps": Case(lambda: test_cell_heads.rtmdet_model("maps")),
    "rtmdet, rows": Case(lambda: test_cell_heads.rtmdet_model("rows")),
    "retinanet": Case(lambda: test_cell_heads.pyramid_model({"cls_logits": 3, "bbox_regression": 4}, 9)),
    "fcos": Case(lambda: test_cell_heads.pyramid_model({"cls_logits": 3, "bbox_regression": 4, "bbox_ctrness": 1}, 1)),
    "efficientdet": Case(test_cell_heads.efficientdet_model, {"head": {"anchor_scale": "3"}, **PIXELS}),
    "retinaface": Case(
        lambda: test_face_heads.face_model(next(iter(test_face_heads.FACE_PRIORS.values())), softmax=False)
    ),
    "blazeface": Case(lambda: test_face_heads.blazeface_model(128)),
    "torchvision SSD, whole": Case(test_torchvision_whole.whole_ssd),
    "torchvision FCOS, whole": Case(lambda: test_torchvision_whole.whole_pyramid(fcos=True)[0]),
    "torchvision RetinaNet, whole": Case(lambda: test_torchvision_whole.whole_pyramid(fcos=False)[0]),
    "classification": Case(test_rich_heads.classifier, PIXELS),
    "localisation": Case(
        lambda: test_rich_heads.classifier("Softmax", box=True), {"head": {"format": "cxcywh-fractions"}, **PIXELS}
    ),
    "semantic": Case(lambda: semantic_model(side=cell_kit.HW[0]), PIXELS),
    "semantic, small": Case(lambda: semantic_model(side=cell_kit.HW[0], upsample=False), PIXELS),
    "twinlitenet": Case(lambda: onnx.ModelProto.FromString(test_semantic.two_maps("da", "ll"))),
    "yolact": Case(test_yolact.yolact_model, {"head": dict(test_yolact.SMALL.head)}),
    "rcnn": Case(test_rcnn.two_stages),
    "masks": Case(
        lambda: onnx.ModelProto.FromString(test_semantic.two_maps()), {"head": {"output": "road+lane"}, **PIXELS}
    ),
}


# What must hold --------------------------------------------------------------------------------------------------


def exported(data: bytes, case: Case) -> PreparedModel | None:
    """The prepared model; None where it is refused in words."""
    try:
        return prepare(data, ExportConfig(precision="fp32", **case.config))
    except EdgeVisionError as error:
        if len(str(error).split()) < 10:
            pytest.fail(f"neither what was expected nor what to do: {error}")
        return None


def outputs_of(prepared: PreparedModel, image: NDArray[np.float32]) -> Outputs:
    return run(prepared.graph.serialize(), image)


@functools.cache
def straight(name: str, hw: tuple[int, int] | None = None) -> tuple[bytes, NDArray[np.float32], Outputs] | None:
    """The model as its exporter writes it (for pictures of size `hw`), a picture, and its boxes; None where this model
    is not built, or not exported, for that size."""
    with pytest.MonkeyPatch.context() as patch:
        for module in SIZED if hw is not None else ():
            patch.setattr(module, "HW", hw)
        for module in SQUARE if hw is not None else ():
            patch.setattr(module, "SIDE", hw[0])
        model = CASES[name].build()
    data, image = model.SerializeToString(), picture_tensor(model)
    image = image.reshape(1, *image.shape[-3:])
    prepared = exported(data, CASES[name]) if hw in (None, image.shape[2:]) else None
    return None if prepared is None else (data, image, outputs_of(prepared, image))


def same_numbers(mutant: bytes, data: bytes, image: NDArray[np.float32]) -> bool:
    """Whether the mutant computes what the straight model does; also where it does not run at all."""
    dims = onnx.ModelProto.FromString(data).graph.input[0].type.tensor_type.shape.dim
    given = image.reshape([dim.dim_value for dim in dims])
    try:
        theirs = run(mutant, given)
    except Exception:  # noqa: BLE001 - ONNX Runtime's errors are many
        return True
    ours = run(data, given)
    return all(np.array_equal(a, b) for a, b in zip(theirs.values(), ours.values(), strict=True))


def check(name: str, mutant: Mutant, *, other_weights: bool) -> str:
    """What became of `mutant`, which must be right."""
    prepared = exported(mutant.data, CASES[name])
    if prepared is None:
        assert not mutant.harmless, "nothing is wrong with it"
        return "refused"
    reference = straight(name, mutant.hw)
    assert reference is not None or mutant.hw is not None
    if reference is None:
        width, height = prepared.preprocess.input_wh
        got = outputs_of(prepared, np.random.default_rng(0).normal(size=(1, 3, height, width)).astype(np.float32))
        assert all(np.isfinite(values).all() for values in got.values())
        return "another size"
    data, image, expected = reference
    if other_weights and not same_numbers(mutant.data, data, image):
        return "another network"
    assert prepared.preprocess.input_wh == image.shape[:1:-1], prepared.family
    got = outputs_of(prepared, image)
    assert got.keys() == expected.keys(), prepared.family
    for output, values in expected.items():
        np.testing.assert_allclose(got[output], values, rtol=1e-5, atol=1e-4, err_msg=prepared.family)
    return "the same"


def test_there_are_at_least_500_mutants() -> None:
    assert len(CASES) * len(KINDS) * MUTANTS_OF_A_KIND >= 500


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", CASES)
def test_a_bent_model_gives_the_same_boxes_or_is_refused(name: str, kind: Callable[..., Mutant]) -> None:
    reference = straight(name)
    assert reference is not None
    for index in range(MUTANTS_OF_A_KIND):
        chance = random.Random(zlib.crc32(f"{name}/{kind.__name__}/{index}".encode()))
        mutant = kind(onnx.ModelProto.FromString(reference[0]), chance)
        check(name, mutant, other_weights=kind is cut)
