"""Models bent in every way that files get bent: each either exports to the boxes of the straight one, or is refused.

Over 1000 mutants, seeded. Nothing may crash, hang, or give other boxes without a word.
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
from onnx import TensorProto

from edgevision.errors import EdgeVisionError
from edgevision.export import ExportConfig, PreparedModel, prepare
from edgevision.manifest import BOX_TASKS
from tests.export import (
    test_cell_heads,
    test_face_heads,
    test_location_heads,
    test_nms_inside,
    test_rich_heads,
    test_set_prediction,
    test_torchvision_whole,
)
from tests.export.builders import (
    grid_priors,
    picture_tensor,
    run,
    ssd_model,
    ultralytics_metadata,
    yolov8_model,
)

Outputs = dict[str, NDArray[Any]]
PIXELS: dict[str, Any] = {"mean": (0.0,) * 3, "std": (255.0,) * 3}
MUTANTS_OF_A_KIND = 5


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
    "yolov8": Case(yolov8_model),
    "yolov8, metadata": Case(lambda: yolov8_model(transposed=True, metadata=ultralytics_metadata())),
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
    "nms inside": Case(test_nms_inside.tensorflow_model, PIXELS),
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
}


# The ways to bend a file ------------------------------------------------------------------------------------------


def renamed(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    """Every tensor and node has another name; every second time the outputs and the input keep theirs."""
    kept = {entry.name for entry in (*model.graph.output, *model.graph.input)} if chance.random() < 0.5 else set()
    names: dict[str, str] = {"": ""}

    def new(name: str) -> str:
        if name not in names:
            names[name] = name if name in kept else f"{chance.choice(['', 'x/', '0', 'é '])}{chance.getrandbits(48):x}"
        return names[name]

    for node in model.graph.node:
        node.name = f"{chance.getrandbits(48):x}" if chance.random() < 0.7 else ""
        node.input[:] = [new(name) for name in node.input]
        node.output[:] = [new(name) for name in node.output]
    for entry in (*model.graph.initializer, *model.graph.input, *model.graph.output, *model.graph.value_info):
        entry.name = new(entry.name)
    return model


def reordered(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    """Outputs, initialisers and shape notes come in another order."""
    for entries in (model.graph.output, model.graph.initializer, model.graph.value_info):
        shuffled = chance.sample([type(entry).FromString(entry.SerializeToString()) for entry in entries], len(entries))
        del entries[:]
        entries.extend(shuffled)
    return model


def restated(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    """What the file says about shapes is left out, left open, or wrong."""
    graph = model.graph
    what = chance.choice(["none", "open batch", "open size", "wrong notes", "wrong outputs", "batch 2", "odd size"])
    dims = graph.input[0].type.tensor_type.shape.dim
    if what == "none":
        del graph.value_info[:]
    elif what == "open batch":
        dims[0].dim_param = "N"
    elif what == "open size":
        dims[-2].dim_param, dims[-1].dim_param = "h", "w"
    elif what == "wrong notes":
        for entry in chance.sample(list(graph.value_info), min(5, len(graph.value_info))):
            entry.type.tensor_type.shape.dim.add().dim_value = chance.randrange(-2, 5)
    elif what == "wrong outputs":
        entry = chance.choice(list(graph.output))
        entry.type.tensor_type.shape.dim.add().dim_value = chance.randrange(7)
    elif what == "batch 2":
        dims[0].dim_value = 2
    else:
        dims[chance.choice([-2, -1])].dim_value = chance.choice([0, -1, 1, 33, 63, 65, 97, 1 << 20])
    return model


def forgotten(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    """Metadata is missing, cut short, or of another kind."""
    entries = model.metadata_props
    what = chance.choice(["none", "fewer", "cut", "nonsense"])
    if what == "none" or not entries:
        del entries[:]
        model.producer_name = model.doc_string = ""
    elif what == "fewer":
        del entries[chance.randrange(len(entries))]
    elif what == "cut":
        entry = chance.choice(list(entries))
        entry.value = entry.value[: chance.randrange(len(entry.value))]
    if what == "nonsense":
        key = chance.choice(["edgevision", "names", "stride", "task", "imgsz", "kpt_shape"])
        value = chance.choice(["{}", "[]", "3", '{"family": 3, "labels": {}}', "[[[", "{0: 1}", "None", "x" * 99])
        del entries[:]
        entries.add(key=key, value=value)
    return model


def retyped(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    """A tensor claims to be of another type."""
    kinds = [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.UINT8, TensorProto.STRING, 0, 99]
    graph, kind = model.graph, chance.choice(kinds)
    place = chance.choice(["input", "output", "note", "constant"])
    if place == "constant":
        chance.choice(list(graph.initializer)).data_type = kind
    elif place == "note" and graph.value_info:
        chance.choice(list(graph.value_info)).type.tensor_type.elem_type = kind
    else:
        chance.choice(list(graph.output if place == "output" else graph.input)).type.tensor_type.elem_type = kind
    return model


def beheaded(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    """Nodes, outputs or constants are missing; an output may now be what its last node read."""
    graph = model.graph
    what = chance.choice(["last node", "node", "output", "constant"])
    if what == "last node":
        entry = chance.choice(list(graph.output))
        maker = next(node for node in graph.node if entry.name in node.output)
        entry.CopyFrom(onnx.ValueInfoProto(name=maker.input[0]))
        entry.type.tensor_type.elem_type = TensorProto.FLOAT
    else:
        entries = {"node": graph.node, "output": graph.output, "constant": graph.initializer}[what]
        del entries[chance.randrange(len(entries))]
    return model


def cut(model: onnx.ModelProto, chance: random.Random) -> bytes:
    """The file ends early, or some bytes of it are others."""
    data = bytearray(model.SerializeToString())
    if chance.random() < 0.5:
        return bytes(data[: chance.randrange(len(data))])
    # The structure is at the front and at the end of such a file; weights in the middle may hold any number.
    start = len(model.graph.SerializePartialToString()) * chance.choice([0, 0, 0, 1])
    for _ in range(3):
        data[(start + chance.randrange(2000)) % len(data)] = chance.randrange(256)
    return bytes(data)


KINDS = [renamed, reordered, restated, forgotten, retyped, beheaded, cut]


# What must hold --------------------------------------------------------------------------------------------------


def exported(data: bytes, case: Case) -> PreparedModel | None:
    """The prepared model; None where it is refused in words."""
    try:
        return prepare(data, ExportConfig(precision="fp32", **case.config))
    except EdgeVisionError:
        return None


def outputs_of(prepared: PreparedModel, image: NDArray[np.float32]) -> Outputs:
    return run(prepared.graph.serialize(), image)


@functools.cache
def straight(name: str) -> tuple[bytes, NDArray[np.float32], Outputs]:
    """The model as it was built, a picture, and its boxes."""
    model = CASES[name].build()
    data, image = model.SerializeToString(), picture_tensor(model)
    image = image.reshape(1, *image.shape[-3:])
    prepared = exported(data, CASES[name])
    assert prepared is not None
    return data, image, outputs_of(prepared, image)


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


def test_there_are_at_least_500_mutants() -> None:
    assert len(CASES) * len(KINDS) * MUTANTS_OF_A_KIND >= 500


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", CASES)
def test_a_bent_model_gives_the_same_boxes_or_is_refused(name: str, kind: Callable[..., Any]) -> None:
    data, image, expected = straight(name)
    for index in range(MUTANTS_OF_A_KIND):
        chance = random.Random(zlib.crc32(f"{name}/{kind.__name__}/{index}".encode()))
        mutant = kind(onnx.ModelProto.FromString(data), chance)
        given = mutant if isinstance(mutant, bytes) else mutant.SerializeToString()
        prepared = exported(given, CASES[name])
        assert prepared is not None or kind is not reordered, "an order means nothing"
        if prepared is None or prepared.task not in BOX_TASKS:  # a map of classes is no wrong box: it says so
            continue
        width, height = prepared.preprocess.input_wh
        if (height, width) != image.shape[2:] or (kind is cut and not same_numbers(given, data, image)):
            # Another size, or other weights, are another model, which says nothing wrong about itself.
            got = outputs_of(prepared, np.resize(image, (1, 3, height, width)))
            assert got["boxes"].shape[1] == got["scores"].shape[1] > 0
            continue
        got = outputs_of(prepared, image)
        assert got.keys() == expected.keys(), f"{index}: {prepared.family}"
        for output, values in expected.items():
            np.testing.assert_allclose(got[output], values, rtol=1e-5, atol=1e-4, err_msg=f"{index}: {prepared.family}")
