"""Loading: real exporters' habits are understood, damaged and hostile files are refused with a clear error."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgevision.errors import EdgeVisionError, ModelError, UsageError
from edgevision.export import external_data, graph_loading
from edgevision.export.graph_loading import load_graph
from edgevision.export.opset import OPSET
from tests.export.builders import Builder, backbone, picture_tensor, run, semantic_model, ssd_model, yolov8_model

VALID = semantic_model().SerializeToString()


# What exporters write


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 18, 19, 20, 21])
def test_every_operator_set_is_brought_to_one_and_computes_the_same(opset: int) -> None:
    b = Builder()
    x = b.op("MaxPool", backbone(b), kernel_shape=[2, 2], strides=[2, 2])
    x = b.op("Softmax", b.conv(x, 16, 5, kernel=1), axis=1)
    b.op("Sigmoid", x, out="out")
    model = b.model({"image": [1, 3, 64, 64]}, ["out"], opset=opset)
    graph = load_graph(model.SerializeToString()).graph
    assert graph.opset == OPSET
    image = picture_tensor(model)
    if opset >= 13:  # before, Softmax flattened what follows its axis; the converter writes that out
        np.testing.assert_allclose(run(graph.serialize(), image)["out"], run(model, image)["out"], atol=1e-6)


def test_softmax_of_old_operator_sets_keeps_its_meaning() -> None:
    b = Builder()
    b.op("Softmax", b.conv(backbone(b), 16, 5, kernel=1), axis=1, out="out")
    model = b.model({"image": [1, 3, 64, 64]}, ["out"], opset=11)
    image = picture_tensor(model)
    converted = run(load_graph(model.SerializeToString()).graph.serialize(), image)["out"]
    np.testing.assert_allclose(converted, run(model, image)["out"], atol=1e-6)
    assert converted.sum() == pytest.approx(1.0, abs=1e-4)


def test_an_operator_newer_than_ours_is_named() -> None:
    b = Builder()
    b.op("Gelu", backbone(b), out="out")
    with pytest.raises(ModelError, match=r"Gelu.*opset_version=19"):
        load_graph(b.model({"image": [1, 3, 64, 64]}, ["out"], opset=20).SerializeToString())


def test_weights_listed_as_inputs_become_constants() -> None:
    model = semantic_model()
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    graph = load_graph(model.SerializeToString()).graph
    assert graph.inputs == ["image"]
    assert len(graph.proto.input) == 1


def test_a_resize_with_sizes_and_empty_scales_is_understood() -> None:
    b = Builder()
    empty, sizes = b.constant(np.zeros(0, np.float32)), b.constant(np.array([1, 16, 64, 64]))
    b.op("Resize", backbone(b), empty, empty, sizes, out="out", mode="nearest", nearest_mode="floor",
         coordinate_transformation_mode="asymmetric")  # fmt: skip
    model = b.model({"image": [1, 3, 64, 64]}, ["out"], opset=11)
    image = picture_tensor(model)
    converted = load_graph(model.SerializeToString()).graph
    np.testing.assert_allclose(run(converted.serialize(), image)["out"], run(model, image)["out"], atol=1e-6)


def test_an_open_batch_becomes_one() -> None:
    b = Builder()
    b.op("Relu", backbone(b), out="out")
    data = b.model({"image": ["N", 3, 64, 64]}, ["out"]).SerializeToString()
    loaded = load_graph(data)
    assert loaded.graph.shape("image") == (1, 3, 64, 64)
    assert loaded.graph.shape("out") == (1, 16, 8, 8)
    assert loaded.facts["fixed_dimensions"] == {"image": [1, 3, 64, 64]}


def test_an_open_size_must_be_given() -> None:
    b = Builder()
    b.op("Relu", backbone(b), out="out")
    data = b.model({"image": ["N", 3, "h", "w"]}, ["out"]).SerializeToString()
    with pytest.raises(UsageError, match="--input-size"):
        load_graph(data)
    assert load_graph(data, (96, 64)).graph.shape("out") == (1, 16, 8, 12)


def test_a_fixed_size_cannot_be_changed_by_flag() -> None:
    assert load_graph(VALID, (64, 64)).graph.shape("image") == (1, 3, 64, 64)
    with pytest.raises(UsageError, match="fixed to"):
        load_graph(VALID, (128, 128))


def test_a_fixed_batch_is_refused() -> None:
    b = Builder()
    b.op("Relu", backbone(b), out="out")
    with pytest.raises(ModelError, match="batch is fixed to 8"):
        load_graph(b.model({"image": [8, 3, 64, 64]}, ["out"]).SerializeToString())


def test_node_names_are_unique_and_none_pretends_to_be_our_decode() -> None:
    model = semantic_model()
    for node in model.graph.node:
        node.name = "edgevision_decode/mine" if node.op_type == "Conv" else ""
    names = [node.name for node in load_graph(model.SerializeToString()).graph.nodes]
    assert len(set(names)) == len(names)
    assert not any(name.startswith("edgevision_decode/") for name in names)


def test_notes_of_the_exporter_are_not_passed_on() -> None:
    model = semantic_model()
    model.graph.node[0].doc_string = "/home/somebody/secret/train.py(17)"
    model.doc_string = "private"
    assert b"somebody" not in load_graph(model.SerializeToString()).graph.serialize()


def test_local_functions_are_inlined() -> None:
    model = semantic_model()
    body = helper.make_function(
        "mine", "Twice", ["x"], ["y"], [helper.make_node("Add", ["x", "x"], ["y"])], [helper.make_opsetid("", 17)]
    )
    model.functions.append(body)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.graph.node[0].input[0] = "twice"
    model.graph.node.insert(0, helper.make_node("Twice", ["image"], ["twice"], domain="mine"))
    graph = load_graph(model.SerializeToString()).graph
    image = picture_tensor(model)
    np.testing.assert_allclose(
        run(graph.serialize(), image)["logits"], run(semantic_model(), 2 * image)["logits"], atol=1e-5
    )


@pytest.mark.parametrize("name", ["scores", "boxes", "class_map", "logits"])
def test_an_input_may_bear_the_name_of_an_output_of_ours(name: str) -> None:
    b = Builder()
    b.op("Relu", backbone(b, name), out="out")
    graph = load_graph(b.model({name: [1, 3, 64, 64]}, ["out"]).SerializeToString()).graph
    assert graph.inputs == [f"input_{name}"]
    onnx.checker.check_model(graph.model)


# What is refused


def with_node(kind: str, domain: str = "") -> bytes:
    b = Builder()
    x = backbone(b)
    b.nodes.append(helper.make_node(kind, [x], ["out"], domain=domain))
    b.op("Relu", x, out="other")
    node = b.nodes.pop(-2)
    model = b.model({"image": [1, 3, 64, 64]}, ["other"])
    model.graph.node.append(node)
    model.graph.output.append(helper.make_tensor_value_info("out", TensorProto.FLOAT, [1]))
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    return model.SerializeToString()


def quantised() -> bytes:
    b = Builder()
    scale, zero = b.constant(np.float32(0.1)), b.constant(np.int8(0))
    x = b.op("DequantizeLinear", b.op("QuantizeLinear", "image", scale, zero), scale, zero, out="image_q")
    b.op("Relu", backbone(b, x), out="out")
    return b.model({"image": [1, 3, 64, 64]}, ["out"]).SerializeToString()


def half() -> bytes:
    b = Builder()
    b.op("Relu", "image", out="out")
    kinds = dict.fromkeys(("image", "out"), TensorProto.FLOAT16)
    return b.model({"image": [1, 3, 64, 64]}, ["out"], kinds=kinds).SerializeToString()


def short_weights() -> bytes:
    model = semantic_model()
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]
    return model.SerializeToString()


def huge_declared_weights() -> bytes:
    model = semantic_model()
    tensor = model.graph.initializer[0]
    tensor.raw_data = b""
    tensor.dims[:] = [1 << 40, 3, 3, 3]
    return model.SerializeToString()


def contradiction() -> bytes:
    model = semantic_model()
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 3, 7, 7), np.float32), "odd"))
    model.graph.node.insert(0, helper.make_node("Add", ["image", "odd"], ["sum"]))
    return model.SerializeToString()


def dangling() -> bytes:
    model = semantic_model()
    model.graph.node[0].input[0] = "nobody"
    return model.SerializeToString()


def circle() -> bytes:
    model = semantic_model()
    model.graph.node[0].input[0] = model.graph.node[2].output[0]
    return model.SerializeToString()


def bad_metadata() -> bytes:
    model = semantic_model()
    model.metadata_props.add(key="edgevision", value="{not json")
    return model.SerializeToString()


def functions(calls: int, depth: int, closed: bool = False) -> bytes:
    """Functions that call each other `calls` times, `depth` deep."""
    model = semantic_model()
    model.opset_import.append(helper.make_opsetid("mine", 1))
    for level in range(depth):
        callee = f"F{level + 1}" if level + 1 < depth else ("F0" if closed else "Relu")
        domain = "" if callee == "Relu" else "mine"
        nodes = [helper.make_node(callee, [f"x{i}"], [f"x{i + 1}"], domain=domain) for i in range(calls)]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
        model.functions.append(helper.make_function("mine", f"F{level}", ["x0"], [f"x{calls}"], nodes, opsets))
    model.graph.node[0].input[0] = "called"
    model.graph.node.insert(0, helper.make_node("F0", ["image"], ["called"], domain="mine"))
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "empty"),
        (b"this is no model", "not an ONNX"),
        (b"\x08\x07", "not an ONNX model"),
        (VALID[: len(VALID) // 2], "truncated|damaged|not an ONNX model"),
        (with_node("BatchedNMS_TRT", "TRT"), r"TRT.BatchedNMS_TRT \(1x\)"),
        (with_node("NobodyKnows"), "NobodyKnows"),
        (quantised(), "already quantised"),
        (half(), "FLOAT16"),
        (short_weights(), "damaged or invalid"),
        (huge_declared_weights(), "damaged or invalid"),
        (contradiction(), "contradict"),
        (dangling(), "damaged or invalid"),
        (circle(), "damaged or invalid"),
        (bad_metadata(), "not JSON"),
        (functions(10, 12), "unfold into"),
        (functions(1, 3, closed=True), "circle|damaged or invalid"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_model_is_refused_with_its_reason(data: bytes, complaint: str) -> None:
    with pytest.raises(ModelError, match=complaint):
        load_graph(data)


def test_a_missing_file_a_folder_and_an_oversized_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        load_graph(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="folder"):
        load_graph(tmp_path)
    path = tmp_path / "model.onnx"
    path.write_bytes(VALID)
    monkeypatch.setattr(graph_loading, "LIMIT_BYTES", len(VALID) - 1)
    for source in (path, VALID):
        with pytest.raises(ModelError, match="limit"):
            load_graph(source)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    for path in ("/dev/zero", tmp_path / "pipe.onnx"):
        with pytest.raises(ModelError, match="device or a pipe"):
            load_graph(path)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_bytes_never_do_worse_than_an_error(data: st.DataObject) -> None:
    damaged = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(damaged)) | st.just(len(damaged)))
    with contextlib.suppress(EdgeVisionError):
        load_graph(bytes(damaged[:cut]))


# External data


def split(folder: Path, location: str = "weights.bin") -> tuple[Path, onnx.ModelProto]:
    """A model with its first weight in weights.bin, which is written; the reference says `location`."""
    model = semantic_model()
    tensor = model.graph.initializer[0]
    data = numpy_helper.to_array(tensor).tobytes()
    (folder / "weights.bin").write_bytes(b"12345678" + data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "8"), ("length", str(len(data)))):
        tensor.external_data.add(key=key, value=value)
    return folder / "model.onnx", model


def test_external_weights_beside_the_model_are_brought_in(tmp_path: Path) -> None:
    path, model = split(tmp_path)
    path.write_bytes(model.SerializeToString())
    graph = load_graph(path).graph
    image = picture_tensor(model)
    (tmp_path / "weights.bin").unlink()
    np.testing.assert_allclose(
        run(graph.serialize(), image)["logits"], run(semantic_model(), image)["logits"], atol=1e-6
    )


def _entry(model: onnx.ModelProto, key: str, value: str) -> None:
    for entry in model.graph.initializer[0].external_data:
        if entry.key == key:
            entry.value = value


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda m: _entry(m, "location", "/etc/passwd"), "leaves the model's folder"),
        (lambda m: _entry(m, "location", "../weights.bin"), "leaves the model's folder"),
        (lambda m: _entry(m, "location", "sub/../../weights.bin"), "leaves the model's folder"),
        (lambda m: _entry(m, "location", "link.bin"), "by a link"),
        (lambda m: _entry(m, "location", "folder/weights.bin"), "by a link"),
        (lambda m: _entry(m, "location", "absent.bin"), "not a file"),
        (lambda m: _entry(m, "location", ""), "leaves the model's folder"),
        (lambda m: _entry(m, "location", "a\0b"), "leaves the model's folder"),
        (lambda m: _entry(m, "offset", "-8"), "at bytes -8"),
        (lambda m: _entry(m, "offset", "9"), "copy it again"),
        (lambda m: _entry(m, "offset", "many"), "unreadable"),
        (lambda m: _entry(m, "length", "4"), "shape needs"),
        (lambda m: m.graph.initializer[0].dims.__setitem__(0, 1 << 50), "shape needs"),
        (lambda m: m.graph.initializer[0].dims.__setitem__(0, -1), "unreadable"),
    ],
)
def test_external_data_cannot_reach_beyond_its_folder(
    tmp_path: Path, change: Callable[[onnx.ModelProto], None], complaint: str
) -> None:
    folder, outside = tmp_path / "model", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    path, model = split(folder)
    (outside / "weights.bin").write_bytes((folder / "weights.bin").read_bytes())
    (folder / "link.bin").symlink_to(outside / "weights.bin")
    (folder / "folder").symlink_to(outside)
    change(model)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=complaint):
        load_graph(path)


def test_external_data_of_a_subgraph_or_an_attribute_is_checked_too() -> None:
    tensor = TensorProto(name="x", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    inner = helper.make_graph([], "inner", [], [], [tensor])
    model = semantic_model()
    model.graph.node.append(helper.make_node("If", ["c"], ["o"], then_branch=inner, else_branch=inner))
    assert sum(t.data_location == TensorProto.EXTERNAL for t in external_data.tensors(model)) == 2
    with pytest.raises(ModelError, match="came as bytes"):
        load_graph(model.SerializeToString())


def test_external_data_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, model = split(tmp_path)
    path.write_bytes(model.SerializeToString())
    monkeypatch.setattr(graph_loading, "LIMIT_BYTES", path.stat().st_size + 100)
    with pytest.raises(ModelError, match="exceed the limit"):
        load_graph(path)


@pytest.mark.parametrize(
    "name", ["nanodet_m_416", "ultraface_rfb_320", "prisma_portrait_256", "yolox_nano", "twinlitenet_640x360"]
)
def test_real_models_compute_the_same_after_loading(shared: Path, name: str) -> None:
    path = shared / "models" / f"{name}.onnx"
    graph = load_graph(path).graph
    image = np.random.default_rng(0).normal(0, 0.5, graph.shape(graph.inputs[0])).astype(np.float32)
    loaded = run(graph.serialize(), image)
    for output, value in run(path.read_bytes(), image).items():
        np.testing.assert_allclose(loaded[output], value, rtol=1e-3, atol=1e-4)


def test_the_builders_are_valid() -> None:
    for model in (ssd_model(), yolov8_model(), semantic_model()):
        onnx.checker.check_model(model, full_check=True)
