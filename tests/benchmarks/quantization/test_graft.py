"""A network cut off in front of its decode is whole, and with the decode put back it is the model that it was."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from benchmarks.quantization.graft import network_of, with_decode
from edgevision import models
from edgevision.errors import ModelError
from edgevision.export import ExportConfig, prepare
from edgevision.export.graph import DECODE_PREFIX, Graph
from tests.export.builders import picture_tensor, run, semantic_model


@pytest.fixture(scope="module")
def detector() -> Graph:
    return prepare(models.path("aerial_detector"), ExportConfig(precision="fp32")).graph


def test_the_network_is_a_whole_model_without_the_decode(detector: Graph) -> None:
    network = network_of(detector)
    onnx.checker.check_model(network, full_check=True)
    assert not [node.name for node in network.graph.node if node.name.startswith(DECODE_PREFIX)]
    convolutions = [sum(n.op_type == "Conv" for n in g.node) for g in (network.graph, detector.proto)]
    assert convolutions[0] == convolutions[1] > 0
    assert {o.name for o in network.graph.output}.isdisjoint(detector.outputs)


def test_cutting_leaves_the_model_as_it_was(detector: Graph) -> None:
    before = detector.serialize()
    network_of(detector)
    assert detector.serialize() == before


def test_with_its_decode_back_a_detector_computes_what_it_did(detector: Graph) -> None:
    joined = with_decode(network_of(detector), detector)
    onnx.checker.check_model(joined, full_check=True)
    image = picture_tensor(detector.model)
    expected = run(detector.model, image)
    for name, value in run(joined, image).items():
        np.testing.assert_array_equal(value, expected[name])


def test_so_does_a_segmenter_whose_decode_is_an_argmax() -> None:
    segmenter = prepare(semantic_model().SerializeToString(), ExportConfig(precision="fp32", preprocess="unit")).graph
    joined = with_decode(network_of(segmenter), segmenter)
    image = picture_tensor(segmenter.model)
    for name, value in run(segmenter.model, image).items():
        np.testing.assert_array_equal(run(joined, image)[name], value)


def _lose_an_output(model: onnx.ModelProto) -> None:
    last = model.graph.output[0].name
    kept = [node for node in model.graph.node if last not in node.output]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _raise_the_operator_set(model: onnx.ModelProto) -> None:
    model.opset_import[0].version += 1


@pytest.mark.parametrize(
    ("damage", "said"),
    [(_lose_an_output, "lacks the outputs"), (_raise_the_operator_set, "operator set from 19 to 20")],
)
def test_a_quantiser_that_changed_what_the_decode_relies_on_is_refused(
    detector: Graph, damage: Callable[[onnx.ModelProto], None], said: str
) -> None:
    network = network_of(detector)
    damage(network)
    with pytest.raises(ModelError, match=said):
        with_decode(network, detector)
