"""Graphs from strangers: no file outside the graph is read, whatever it says and however it is encoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgevision.backends.onnx_safety import check_graph
from edgevision.backends.onnxruntime import open_session
from edgevision.errors import SessionError
from tests.tiny_models import colour_detector, model_bytes, quantised_block, value


def external(location: str, name: str = "w") -> onnx.TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, text in (("location", location), ("offset", "0"), ("length", "16")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, text
    return tensor


def graph(nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto]) -> onnx.GraphProto:
    return helper.make_graph(nodes, "g", [value("x", [4])], [value("y", [4])], tensors)


def serialised(graph: onnx.GraphProto, **more: object) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9, **more)
    data: bytes = model.SerializeToString()
    return data


def adding(location: str) -> bytes:
    return serialised(graph([helper.make_node("Add", ["x", "w"], ["y"])], [external(location)]))


@pytest.mark.parametrize(
    "location", ["/etc/passwd", "weights.bin", "../../etc/passwd", "./weights.bin", "*/_ORT_MEM_ADDR_/*", ""]
)
def test_no_file_is_read(location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    for options in ({}, {"optimise": False}, {"exact": True}):
        with pytest.raises(SessionError, match="outside itself"):
            open_session(adding(location), **options)


def test_wherever_a_tensor_may_stand() -> None:
    secret = external("/etc/passwd")
    constant = helper.make_node("Constant", [], ["w"], value=secret)
    add = helper.make_node("Add", ["x", "w"], ["y"])
    body = helper.make_graph([constant, add], "body", [], [value("y", [4])])
    branch = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    function = helper.make_function("own", "F", ["x"], ["y"], [constant, add], [helper.make_opsetid("", 19)])
    sparse = onnx.SparseTensorProto(values=secret, indices=external("/etc/passwd"), dims=[4])
    for bytes_ in (
        serialised(graph([constant, add], [])),
        serialised(graph([branch], [])),
        serialised(graph([], []), functions=[function]),
        serialised(graph([helper.make_node("Constant", [], ["y"], sparse_value=sparse)], [])),
    ):
        with pytest.raises(SessionError, match="outside itself"):
            check_graph(bytes_)


def test_a_loop_is_refused() -> None:
    body = helper.make_graph([], "body", [], [])
    with pytest.raises(SessionError, match="Loop"):
        check_graph(serialised(graph([helper.make_node("Loop", ["n", ""], ["y"], body=body)], [])))


def test_names_that_sound_like_it_are_fine() -> None:
    nodes = [helper.make_node("Relu", ["location"], ["Loop"])]
    data = model_bytes(nodes, [value("location", [4])], [value("Loop", [4])])
    check_graph(data)
    assert open_session(data).run({"location": np.array([-1, 0, 1, 2], np.float32)})["Loop"].tolist() == [0, 0, 1, 2]


def test_ordinary_graphs_pass_the_full_walk() -> None:
    for data in (colour_detector(), quantised_block()):
        # The word alone makes the check walk the whole message.
        model = onnx.load_from_string(data)
        model.doc_string = "location"
        check_graph(model.SerializeToString())


def varint(number: int, padding: int = 0) -> bytes:
    groups = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)] + [0] * padding
    return bytes(g | 0x80 for g in groups[:-1]) + bytes(groups[-1:])


def field(number: int, content: bytes, *, padding: int = 0, overflow: bool = False) -> bytes:
    """A length-delimited field; its tag padded with empty groups, or with bits above the 32 that protobuf keeps."""
    tag = number << 3 | 2
    return varint(tag | 1 << 32 if overflow else tag, padding) + varint(len(content)) + content


@pytest.mark.parametrize("how", [{}, {"padding": 1}, {"padding": 2}, {"overflow": True}])
def test_unusual_encodings_that_onnx_runtime_reads_do_not_hide_a_tensor(
    how: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    model = onnx.load_from_string(adding("weights.bin"))
    tensor = model.graph.initializer.pop().SerializeToString()
    inner = model.graph.SerializeToString() + field(5, tensor, **how)
    model.ClearField("graph")
    odd = model.SerializeToString() + field(7, inner, **how)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(odd, options, providers=["CPUExecutionProvider"])
    # Without the check it reads the file: what is refused below is real.
    assert session.run(None, {"x": np.zeros(4, np.float32)})[0].tolist() == [0, 1, 2, 3]
    with pytest.raises(SessionError, match="outside itself"):
        check_graph(odd)


@given(st.binary(max_size=60), st.integers(0, 200), st.binary(max_size=4))
@settings(max_examples=200, deadline=None)
def test_damage_is_refused_or_passed_on_but_never_anything_else(noise: bytes, cut: int, patch: bytes) -> None:
    model = onnx.load_from_string(colour_detector())
    model.doc_string = "location"
    whole = model.SerializeToString()
    for data in (noise + b"location", whole[:cut] + b"location", whole[:cut] + patch + whole[cut + len(patch) :]):
        try:
            check_graph(data)
        except SessionError:
            continue
