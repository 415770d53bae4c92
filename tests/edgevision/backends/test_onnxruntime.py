"""ONNX Runtime sessions: numerics against onnx's reference evaluator, buffers, and errors in words."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from edgevision.backends.base import TensorSpec
from edgevision.backends.onnxruntime import open_session
from edgevision.errors import SessionError
from tests.tiny_models import biased_segmenter, colour_detector, model_bytes, quantised_block, value


def reference(graph: bytes, **inputs: NDArray[Any]) -> list[NDArray[Any]]:
    outputs: list[NDArray[Any]] = ReferenceEvaluator(onnx.load_from_string(graph)).run(None, inputs)
    return outputs


def image(seed: int = 0, size: int = 16) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(0, 1, (1, 3, size, size)).astype(np.float32)


def adder() -> bytes:
    """y = a + b, z = a * b."""
    nodes = [helper.make_node("Add", ["a", "b"], ["y"]), helper.make_node("Mul", ["a", "b"], ["z"])]
    return model_bytes(nodes, [value("a", [2, 3]), value("b", [2, 3])], [value("y", [2, 3]), value("z", [2, 3])])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("optimise", [False, True])
def test_a_float_graph_gives_the_references_values(optimise: bool, threads: int) -> None:
    graph = colour_detector()
    picture = np.random.default_rng(0).uniform(0, 1, (1, 3, 48, 64)).astype(np.float32)
    session = open_session(graph, threads=threads, optimise=optimise)
    assert session.inputs == (TensorSpec("image", (1, 3, 48, 64), "float32"),)
    assert session.outputs == (TensorSpec("boxes", (1, 48, 4), "float32"), TensorSpec("scores", (1, 48, 3), "float32"))
    outputs = session.run({"image": picture})
    boxes, scores = reference(graph, image=picture)
    np.testing.assert_array_equal(outputs["boxes"], boxes)
    np.testing.assert_allclose(outputs["scores"], scores, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("optimise", [False, True])
def test_exact_runs_a_quantised_graph_as_written(optimise: bool, seed: int) -> None:
    graph = quantised_block(seed)
    expected = reference(graph, image=image(seed))[0]
    assert np.unique(expected).size > 30, "the test graph must not be saturated"
    result = open_session(graph, exact=True, optimise=optimise).run({"image": image(seed)})["result"]
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_exact_keeps_a_bias_finer_than_the_integer_grid() -> None:
    """ONNX Runtime's integer kernels round the bias to input scale x weight scale, here to 0; TensorRT's do not."""
    pixels = np.random.default_rng(0).integers(0, 20, (1, 3, 48, 64)).astype(np.float32)
    logits = open_session(biased_segmenter(), exact=True).run({"image": pixels})["logits"]
    np.testing.assert_allclose(logits, pixels + np.array([0, 0.4, 0]).reshape(3, 1, 1), atol=1e-5)


@pytest.mark.parametrize(
    "dtype", ["float32", "float16", "float64", "bool", "int8", "uint8", "int16", "uint16", "int32", "int64", "uint64"]
)
def test_every_number_type_passes(dtype: str) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    graph = model_bytes(nodes, [value("x", [2, 3], kind)], [value("y", [3, 2], kind)], {"shape": np.array([3, 2])})
    x = np.array([[0, 1, 2], [3, 4, 5]]).astype(dtype)
    result = open_session(graph).run({"x": x})["y"]
    assert result.dtype == x.dtype
    np.testing.assert_array_equal(result, x.reshape(3, 2))


def test_the_same_array_may_be_refilled_and_another_one_given() -> None:
    session = open_session(adder())
    a, b = np.ones((2, 3), np.float32), np.full((2, 3), 2, np.float32)
    assert session.run({"a": a, "b": b})["y"][0, 0] == 3
    a[:] = 10
    assert session.run({"a": a, "b": b})["y"][0, 0] == 12
    assert session.run({"a": a, "b": a})["z"][0, 0] == 100
    assert session.run({"a": b, "b": a, "unused": a})["y"][0, 0] == 12


def test_outputs_are_kept_buffers() -> None:
    session = open_session(adder())
    a = np.ones((2, 3), np.float32)
    first = session.run({"a": a, "b": a})["y"]
    second = session.run({"a": a + 1, "b": a})["y"]
    assert second is first
    assert (first == 3).all()


def test_an_input_array_may_be_dropped_by_its_owner() -> None:
    session = open_session(adder())
    for number in range(20):
        filled = np.full((2, 3), number, np.float32)
        result = session.run({"a": filled, "b": np.ones((2, 3), np.float32)})
        del filled
        assert result["y"][0, 0] == number + 1


def test_outputs_whose_shape_the_graph_leaves_open_are_sized_by_a_run() -> None:
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    graph = model_bytes(nodes, [value("x", [2, 6])], [value("y", ["rows", "columns"])], {"shape": np.array([3, -1])})
    session = open_session(graph, optimise=False)
    assert session.outputs == (TensorSpec("y", (3, 4), "float32"),)
    x = np.arange(12, dtype=np.float32).reshape(2, 6)
    np.testing.assert_array_equal(session.run({"x": x})["y"], x.reshape(3, 4))


def test_siblings_share_the_graph_but_no_buffer_and_run_at_once() -> None:
    first = open_session(quantised_block())
    sessions = [first, first.sibling(), first.sibling()]
    expected = [first.run({"image": image(i)})["result"].copy() for i in range(3)]
    wrong = [0, 0, 0]

    def work(number: int) -> None:
        picture = image(number)
        for _ in range(50):
            result = sessions[number].run({"image": picture})["result"]
            wrong[number] += not np.array_equal(result, expected[number])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert wrong == [0, 0, 0]


def test_closing_one_sibling_leaves_the_others() -> None:
    first = open_session(adder())
    second = first.sibling()
    first.close()
    first.close()
    a = np.ones((2, 3), np.float32)
    assert second.run({"a": a, "b": a})["y"][0, 0] == 2
    for use in (lambda: first.run({"a": a, "b": a}), first.sibling):
        with pytest.raises(SessionError, match="closed"):
            use()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"a": np.ones((2, 3), np.float32)}, r"'b' is missing; this graph takes \['a', 'b'\]"),
        ({"a": np.ones((2, 4), np.float32)}, r"\(2, 3\) float32, got \(2, 4\) float32"),
        ({"a": np.ones((2, 3), np.float64)}, "got .* float64"),
        ({"a": np.ones((3, 2), np.float32).T}, "not C-contiguous"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_in_words(given: dict[str, NDArray[Any]], words: str) -> None:
    with pytest.raises(SessionError, match=words):
        open_session(adder()).run(given)


@pytest.mark.parametrize("graph", [b"", b"not an onnx file", b"\x00" * 1000, colour_detector()[:-100]])
def test_bytes_that_are_no_graph_are_refused(graph: bytes) -> None:
    with pytest.raises(SessionError, match="refuses the graph"):
        open_session(graph)


def test_a_graph_with_an_open_input_is_refused() -> None:
    graph = model_bytes([helper.make_node("Relu", ["x"], ["y"])], [value("x", ["rows", 3])], [value("y", ["rows", 3])])
    with pytest.raises(SessionError, match=r"open shape \['rows', 3\]"):
        open_session(graph)


@pytest.mark.parametrize("optimise", [False, True])
def test_an_open_batch_becomes_the_number_of_pictures_asked_for(optimise: bool) -> None:
    graph = model_bytes(
        [helper.make_node("Relu", ["x"], ["y"])], [value("x", ["batch", 3])], [value("y", ["batch", 3])]
    )
    assert open_session(graph, optimise=optimise).inputs == (TensorSpec("x", (1, 3), "float32"),)
    session = open_session(graph, optimise=optimise, batch=2)
    x = np.array([[-1, 0, 1], [2, -2, 3]], np.float32)
    np.testing.assert_array_equal(session.run({"x": x})["y"], np.maximum(x, 0))
    with pytest.raises(SessionError, match=r"takes a C-contiguous \(2, 3\)"):
        session.run({"x": x[:1]})


def test_a_tensor_that_numpy_cannot_hold_is_refused() -> None:
    x = value("x", [2], TensorProto.STRING)
    graph = model_bytes([helper.make_node("Identity", ["x"], ["y"])], [x], [value("y", [2], TensorProto.STRING)])
    with pytest.raises(SessionError, match="only plain number tensors"):
        open_session(graph)


def test_a_failure_inside_the_graph_is_an_error_in_words_and_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    nodes = [helper.make_node("Gather", ["table", "index"], ["y"])]
    graph = model_bytes(
        nodes, [value("index", [1], TensorProto.INT64)], [value("y", [1])], {"table": np.zeros(3, np.float32)}
    )
    session = open_session(graph)
    with pytest.raises(SessionError, match=r"ONNX Runtime failed: .*indices element out of data bounds"):
        session.run({"index": np.array([7])})
    assert session.run({"index": np.array([2])})["y"].tolist() == [0]
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_graph_that_wants_more_memory_than_there_is_fails_in_words() -> None:
    nodes = [helper.make_node("ConstantOfShape", ["shape"], ["huge"]), helper.make_node("ReduceSum", ["huge"], ["y"])]
    graph = model_bytes(nodes, [value("shape", [2], TensorProto.INT64)], [value("y", [1, 1])])
    session = open_session(graph)
    with pytest.raises(SessionError, match="ONNX Runtime failed"):
        session.run({"shape": np.array([1 << 30, 1 << 22])})
