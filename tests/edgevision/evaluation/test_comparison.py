"""A bundle's graphs side by side: the figures are those of each graph alone, and the page is safe to open."""

from __future__ import annotations

import json
import re
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgevision.bundle import Bundle, write_bundle
from edgevision.errors import DatasetError, UsageError
from edgevision.evaluation import Recording, compare, compare_graphs, evaluate, open_dataset, open_images
from edgevision.evaluation.comparison import worst_layers
from edgevision.evaluation.page import html_page, make_folder, markdown_page, write_report
from edgevision.manifest import GraphInfo
from tests.edgevision.evaluation.kit import boxes_dataset, dimmed, paint, write_detector, write_segmenter
from tests.tiny_models import classifier_bundle, detector_manifest

EVIL = '<img src=x onerror="alert(1)">|`*_[x](javascript:y)'


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Float, one graph that does the same, and one that is less sure of everything."""
    further = {"cpu.onnx": dimmed(0.8), "tensorrt.onnx": dimmed(1.0)}
    return write_detector(tmp_path / "detector.edge", further, cpu_graph="cpu.onnx")


def test_figures_are_those_of_each_graph_alone(tmp_path: Path, bundle: Path) -> None:
    dataset = open_dataset(boxes_dataset(tmp_path))
    got = compare(bundle, dataset, repeats=2)
    for name, graph in (("model.onnx", "cpu"), ("tensorrt.onnx", "tensorrt")):
        alone = evaluate(bundle, dataset, repeats=2, precision=got["graphs"][name]["precision"], graph=graph)
        assert {key: got["graphs"][name][key] for key in alone} == alone


def test_agreement_needs_no_labels_and_is_not_called_accuracy(tmp_path: Path, bundle: Path) -> None:
    paint(tmp_path / "images", 5)
    data = compare(bundle, open_images(tmp_path / "images"), confidence=0.7)
    graphs = data["graphs"]
    assert (data["labelled"], data["images"]) == (False, 5)
    assert {graph["map_50_95"] for graph in graphs.values()} == {None}
    assert "agreement" not in graphs["model.onnx"]
    assert (graphs["tensorrt.onnx"]["agreement"]["matched_50"], graphs["tensorrt.onnx"]["agreement"]["missing"]) == (
        1,
        0,
    )
    dim = graphs["cpu.onnx"]["agreement"]
    assert dim["matched_50"] < 1
    assert dim["score_shift"] < -0.05
    assert dim["extra"] == 0
    assert dim["missing"] == dim["float_boxes"] - dim["boxes"]


def test_repeats_give_agreement_with_its_error_over_the_same_noise(tmp_path: Path, bundle: Path) -> None:
    paint(tmp_path / "images", 30)
    options = {"repeats": 3, "confidence": 0.7}
    got = compare(bundle, open_images(tmp_path / "images"), **options)
    assert got == compare(bundle, open_images(tmp_path / "images"), **options)
    assert got["graphs"]["tensorrt.onnx"]["agreement"]["matched_50"] == 1, "the same noise for every graph"
    assert got["graphs"]["tensorrt.onnx"]["agreement"]["standard_error"]["matched_50"] == 0
    assert got["graphs"]["cpu.onnx"]["agreement"]["standard_error"]["matched_50"] > 0


@pytest.mark.parametrize("limit_bytes", [0, 800, 1 << 20])
def test_what_float_found_serves_other_graphs_too(tmp_path: Path, bundle: Path, limit_bytes: int) -> None:
    dataset, recording = open_dataset(boxes_dataset(tmp_path)), Recording(limit_bytes)
    for brightness in (0.8, 0.6):
        other = write_detector(tmp_path / "other.edge", {"tensorrt.onnx": dimmed(brightness)})
        for seeds in ([3, 4], [4]):
            assert (
                compare(other, dataset, seeds=seeds, recording=recording)["graphs"]
                == (compare(other, dataset, seeds=seeds)["graphs"])
            )


def test_a_recorded_graph_is_not_run_again(tmp_path: Path, bundle: Path) -> None:
    paint(tmp_path / "images", 5)
    pictures, recording = open_images(tmp_path / "images"), Recording()
    first = compare(bundle, pictures, seeds=[1], recording=recording)["graphs"]["cpu.onnx"]["agreement"]
    with zipfile.ZipFile(bundle) as archive:  # the other graphs are as good as float is then
        graphs = {name: archive.read(name) for name in archive.namelist() if name.endswith(".onnx")}
    assert first["score_shift"] < -0.05
    write_bundle(bundle, Bundle(bundle).manifest, {**graphs, "model.onnx": graphs["cpu.onnx"]})
    assert compare(bundle, pictures, seeds=[1])["graphs"]["cpu.onnx"]["agreement"]["score_shift"] == 0
    assert compare(bundle, pictures, seeds=[1], recording=recording)["graphs"]["cpu.onnx"]["agreement"] == first


def test_segmenters_and_classifiers_have_agreement_too(tmp_path: Path) -> None:
    paint(tmp_path / "images", 3)
    for path in (write_segmenter(tmp_path / "s.edge"), classifier_bundle(tmp_path / "c.edge", localises=True)):
        data = compare_graphs(path, open_images(tmp_path / "images"), pictures=2, repeats=2).data
        assert list(data["graphs"]) == ["model.onnx"]
    with pytest.raises(DatasetError, match="--images"):
        evaluate(tmp_path / "c.edge", open_dataset(boxes_dataset(tmp_path / "b")))


def test_the_most_different_pictures_are_drawn_beside_float(tmp_path: Path, bundle: Path) -> None:
    paint(tmp_path / "images", 6)
    found = compare_graphs(bundle, open_images(tmp_path / "images"), pictures=3)
    assert len(found.shown) == 3
    for shown in found.shown:
        titles = [title for title, _, _ in shown.cells]
        assert titles == ["model.onnx (fp32)", "tensorrt.onnx (int8)", "cpu.onnx (int8)"]
        pictures = [image for *_, image in shown.cells]
        assert np.array_equal(pictures[0], pictures[1])
        assert not np.array_equal(pictures[0], pictures[2])
        assert "missing" in shown.cells[2][1]


def test_an_empty_folder_of_pictures_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no pictures"):
        open_images(tmp_path)
    with pytest.raises(DatasetError, match="absent"):
        open_images(tmp_path / "absent")


# --- the page ---------------------------------------------------------------------------------------------------


class _Page(HTMLParser):
    """What a browser would find: elements, what they load, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


def evil_bundle(path: Path) -> Path:
    """Names that would be markup, wherever a page shows names."""
    graphs = {"model.onnx": dimmed(1.0), "cpu.onnx": dimmed(0.7)}
    infos = {name: GraphInfo("fp32" if name == "model.onnx" else "int8") for name in graphs}
    labels = (EVIL, "</script><script>", "green")
    report = {
        "layers": [{"node": EVIL, "sqnr_db": 3.0, "int8": True, "reason": EVIL}, {"node": "good", "sqnr_db": 40.0}],
        "fp16": {EVIL: EVIL, "largest_tensor": EVIL, "largest": [EVIL], "float32_nodes": 8},
    }
    manifest = detector_manifest((32, 32), name=EVIL, labels=labels, graphs=infos)
    write_bundle(path, manifest, {**graphs, "report.json": json.dumps(report).encode()})
    return path


def test_the_page_needs_no_other_file_and_runs_nothing(tmp_path: Path) -> None:
    paint(tmp_path / "images", 3)
    (tmp_path / "images/0.png").rename(tmp_path / "images/<b onclick=x>0.png")
    found = compare_graphs(evil_bundle(tmp_path / "e.edge"), open_images(tmp_path / "images"), pictures=3)
    page = _Page(html_page(found))
    assert not {"script", "iframe", "link", "object", "a", "b onclick"} & set(page.tags)
    assert not page.handlers
    assert page.tags.count("img") == 6
    assert all(load.startswith("data:image/jpeg;base64,") for load in page.loads)
    assert "default-src 'none'" in html_page(found)
    assert page.text.count(EVIL) >= 5
    assert "<b onclick=x>0.png" in page.text
    text = markdown_page(found)
    assert "<" not in re.sub(r"\\<", "", text)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(re.search(r"(?<!\\)\|$", row) for row in rows)


def test_layers_in_the_report_are_shown_worst_first_and_nonsense_left_out() -> None:
    layers = [
        {"node": "a", "sqnr_db": 30, "int8": True, "reason": ""},
        {"node": "b", "sqnr_db": 12.5, "int8": False, "reason": "budget"},
        {"node": "c", "sqnr_db": float("nan")},
        {"node": "d", "sqnr_db": "12"},
        "e",
    ]
    assert [layer["node"] for layer in worst_layers({"layers": layers})] == ["b", "a"]
    assert worst_layers({"layers": layers})[0]["reason"] == "budget"
    for nothing in ({}, {"layers": None}, {"layers": {"a": 1}}):
        assert worst_layers(nothing) == []


def test_everything_is_written_into_the_folder(tmp_path: Path, bundle: Path) -> None:
    spec = boxes_dataset(tmp_path)
    found = compare_graphs(bundle, open_dataset(spec), pictures=2)
    paths = write_report(make_folder(tmp_path / "new" / "report"), found)
    assert [path.suffix for path in paths] == [".html", ".md", ".json", ".png"]
    assert json.loads(paths[2].read_text()) == json.loads(json.dumps(found.data))
    assert cv2.imread(str(paths[3])).shape[2] == 3
    text = paths[1].read_text()
    assert "mAP50-95 lost, points" in text
    assert "This is not accuracy" in text
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file"):
        make_folder(tmp_path / "file")
