"""Channel ranges are those of the plain graph, whatever the order and the number of workers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgevision.calibration import CalibrationImages, ChannelTable, collect_channels, load_or_collect_channels
from edgevision.calibration.channels import reduce_channels
from edgevision.errors import CalibrationError
from edgevision.kernels.cpu import Preprocessor
from edgevision.manifest import Preprocess

WritePictures = Callable[..., Path]

TENSORS = ["image", "relu", "signed", "clip", "pooled", "moved", "flat", "output"]
CHANNELS = {"image": 3, "relu": 16, "signed": 24, "clip": 16, "pooled": 16, "moved": 16, "flat": 3072, "output": 3072}


def plain_channels(network: bytes, images: CalibrationImages, preprocess: Preprocess) -> dict[str, list[np.ndarray]]:
    """Per tensor the pictures' arrays, channels last, from an ordinary session."""
    model = onnx.load_model_from_string(network)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in TENSORS[1:])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    prepare = Preprocessor(preprocess)
    array = np.zeros(prepare.shape, np.float32)
    found: dict[str, list[np.ndarray]] = {name: [] for name in TENSORS}
    for _, image in images:
        prepare(image, array[0])
        for name, values in zip(TENSORS, [array, *session.run(None, {"image": array})], strict=True):
            rows = values.transpose(0, 2, 3, 1) if name not in ("moved", "flat", "output") else values
            found[name].append(rows.reshape(-1, CHANNELS[name]).copy())
    return found


def test_ranges_are_those_of_the_plain_graph(
    network: bytes, preprocess: Preprocess, write_pictures: WritePictures
) -> None:
    """`moved` is (1, 12, 16, 16), rank 4: its channels are taken to be axis 1, whatever it means."""
    images = CalibrationImages(write_pictures(5))
    table = collect_channels(network, TENSORS, images, preprocess, quiet=True)
    assert list(table) == TENSORS
    assert table.images == 5
    for name, rows in plain_channels(network, images, preprocess).items():
        if name == "moved":
            rows = [row.reshape(12, 16, 16).transpose(1, 2, 0).reshape(-1, 12) for row in rows]
        assert np.array_equal(table[name].minimum, np.min([row.min(axis=0) for row in rows], axis=0)), name
        assert np.array_equal(table[name].maximum, np.max([row.max(axis=0) for row in rows], axis=0)), name
        assert table[name].minimum.dtype == table[name].maximum.dtype == np.float32


def test_order_names_and_workers_do_not_matter(
    network: bytes, preprocess: Preprocess, write_pictures: WritePictures, shuffled_copy: Callable[[Path], Path]
) -> None:
    folder = write_pictures(9)
    shuffled = shuffled_copy(folder)
    texts = {
        collect_channels(network, TENSORS, CalibrationImages(pictures), preprocess, workers=n, quiet=True).to_json()
        for pictures in (folder, shuffled)
        for n in (1, 2, 5)
    }
    assert len(texts) == 1


def test_tensors_may_be_named_twice_and_rows_of_any_rank_have_channels_last(
    network: bytes, preprocess: Preprocess, write_pictures: WritePictures
) -> None:
    images = CalibrationImages(write_pictures(1))
    table = collect_channels(network, ["flat", "relu", "relu"], images, preprocess, quiet=True)
    assert list(table) == ["flat", "relu"]
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    low, high = reduce_channels(values)
    assert (low.tolist(), high.tolist()) == ([0, 1, 2, 3], [20, 21, 22, 23])


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 3, 4, 5), (1, 3, 40, 50), (7,), ()])
def test_every_shape_is_reduced_like_numpy(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    rows = values.transpose(0, 2, 3, 1) if len(shape) == 4 else values
    rows = rows.reshape(-1, rows.shape[-1] if shape else 1)
    low, high = reduce_channels(values)
    assert np.array_equal(low, rows.min(axis=0))
    assert np.array_equal(high, rows.max(axis=0))


def test_a_value_that_is_not_finite_names_tensor_and_picture(write_pictures: WritePictures) -> None:
    folder = write_pictures(3)
    cv2.imwrite(str(folder / "black.png"), np.zeros((8, 8, 3), np.uint8))
    shape = [1, 3, 8, 8]
    nodes = [helper.make_node("Log", ["image"], ["log"]), helper.make_node("Sub", ["log", "log"], ["zero"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("image", "zero")]
    graph = helper.make_graph(nodes, "log", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    for tensor in ("log", "zero"):
        with pytest.raises(CalibrationError, match=rf"tensor '{tensor}'.*picture 'black\.png'"):
            collect_channels(
                model, [tensor], CalibrationImages(folder), Preprocess("image", (8, 8), mean=(-0.0,) * 3), quiet=True
            )


def test_a_table_is_kept_beside_the_ranges_and_reused(
    network: bytes, preprocess: Preprocess, write_pictures: WritePictures, tmp_path: Path
) -> None:
    images, cache = CalibrationImages(write_pictures(3)), tmp_path / "ranges.json"
    table, origin = load_or_collect_channels(cache, network, ["relu"], images, preprocess, quiet=True)
    assert origin == "ranges collected from 3 pictures"
    again, origin = load_or_collect_channels(cache, network, ["relu"], images, preprocess, quiet=True)
    assert "reused" in origin
    assert again.to_json() == table.to_json()
    _, origin = load_or_collect_channels(cache, network, ["clip"], images, preprocess, quiet=True)
    assert "another graph, preprocessing or set of pictures" in origin
    assert [path.name for path in tmp_path.glob("ranges*")] == ["ranges.json.channels"]


def damage(key: str, value: object) -> Callable[[dict], None]:
    return lambda data: data.update({key: value})


@pytest.mark.parametrize(
    "change",
    [
        damage("format_version", 9),
        damage("images", "3"),
        damage("channels", []),
        lambda data: data["channels"]["relu"].update(minimum="AAAA"),
        lambda data: data["channels"]["relu"].update(minimum="AADAfw=="),
        lambda data: data["channels"]["relu"].pop("maximum"),
        lambda data: data["channels"]["relu"].update(minimum=data["channels"]["relu"]["maximum"], maximum="AAAA" * 16),
    ],
)
def test_a_damaged_table_is_refused(
    network: bytes, preprocess: Preprocess, write_pictures: WritePictures, change: Callable[[dict], None]
) -> None:
    images = CalibrationImages(write_pictures(2))
    data = json.loads(collect_channels(network, ["relu"], images, preprocess, quiet=True).to_json())
    change(data)
    with pytest.raises(CalibrationError, match="not a usable channel table"):
        ChannelTable.from_json(json.dumps(data))
