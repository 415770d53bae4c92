"""`edgevision build`: plans from bundles by the real TensorRT-RTX builder, and what it says when it cannot."""

from __future__ import annotations

import _thread
import dataclasses
import json
import os
import sys
from pathlib import Path

import pytest

from edgevision.bundle import write_bundle
from edgevision.cli import main
from edgevision.export.emit_tensorrt import emit_tensorrt
from edgevision.export.graph import Graph
from edgevision.export.half import to_half
from edgevision.export.placement import plan_placement
from edgevision.manifest import GraphInfo, Manifest, Preprocess
from edgevision.progress import Progress
from tests.export.networks import Net, measured, pictures


def graphs(*, transposed: bool = False) -> dict[str, Graph]:
    """A small segmenter's graphs; `transposed` quantises a layer that the builder runs in FP16 nevertheless."""
    net = Net()
    x = net.op("Relu", net.convolution("image", 3, 32, out="stem"))
    x = net.op("Relu", net.convolution(x, 32, 32, out="layer"), out="features")
    x = net.op("ConvTranspose", x, net.weight(32, 32, 2, 2), strides=[2, 2], out="up")
    net.convolution(x, 32, 4, out="logits")
    graph = net.graph("logits")
    plan = plan_placement(graph)
    if transposed:
        plan = dataclasses.replace(plan, tensorrt_inputs={**plan.tensorrt_inputs, "up": (0,)})
    ranges = measured(graph, (*plan.observed, "features"), pictures(net.input, 2))
    return {
        "model.onnx": graph,
        "tensorrt.onnx": emit_tensorrt(graph, plan, ranges),
        "tensorrt_fp16.onnx": to_half(graph),
    }


def make_bundle(path: Path, *, promised: int = 2, transposed: bool = False) -> Path:
    infos = {
        "model.onnx": GraphInfo("fp32", 0, 4),
        "tensorrt.onnx": GraphInfo("int8", promised, 4 - promised),
        "tensorrt_fp16.onnx": GraphInfo("fp16", 0, 4),
    }
    manifest = Manifest(
        "tiny", "semantic", "semantic", "int8", ("a", "b", "c", "d"), Preprocess("image", (16, 16)), infos
    )
    write_bundle(path, manifest, {name: graph.serialize() for name, graph in graphs(transposed=transposed).items()})
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "tiny.edge")


RTX = ["--backend", "tensorrt-rtx", "--target", "89"]


def test_a_plan_is_written_beside_the_bundle_and_described(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(bundle), *RTX]) == 0
    plan = bundle.with_suffix(".int8.rtx-sm89.plan")
    assert plan.read_bytes()[:4] == b"vtrt"  # what NVIDIA's plans for RTX begin with
    assert "INT8: 2 of 2 promised convolutions" in capsys.readouterr().out


def test_json_tells_every_layers_precision(bundle: Path, tmp_path: Path) -> None:
    report, plan = tmp_path / "build.json", tmp_path / "out.plan"
    assert main(["build", str(bundle), *RTX, "-o", str(plan), "--json", str(report), "--quiet"]) == 0
    data = json.loads(report.read_text())
    expected = {"plan", "bytes", "seconds", "rung", "reasons", "notes", "layers", "convolutions", "int8_over_fp16"}
    assert set(data) == expected
    assert (data["rung"], data["reasons"], data["notes"]) == ("int8", [], [])
    assert data["plan"] == str(plan)
    assert data["bytes"] == plan.stat().st_size
    assert data["convolutions"] == {"int8": 2, "promised": 2}
    assert set(data["layers"][0]) == {"name", "precision", "onnx_nodes"}
    assert {"int8", "fp16"} <= {layer["precision"] for layer in data["layers"]}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_other_graphs_of_the_bundle_build_too(bundle: Path, tmp_path: Path, precision: str) -> None:
    plan = tmp_path / "out.plan"
    assert main(["build", str(bundle), *RTX, "--precision", precision, "-o", str(plan)]) == 0
    assert plan.is_file()


def test_a_promise_that_the_builder_breaks_is_a_goal_missed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_bundle(tmp_path / "planted.edge", promised=3, transposed=True)
    assert main(["build", str(path), *RTX]) == 1
    said = capsys.readouterr().out
    assert "2 of 3 promised" in said
    assert "not in INT8: node_up" in said
    assert [entry.name for entry in tmp_path.iterdir()] == ["planted.edge"]


def test_a_promise_that_the_graph_does_not_hold_is_a_goal_missed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_bundle(tmp_path / "short.edge", promised=3)
    assert main(["build", str(path), *RTX, "--json", "-"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["plan"] is None
    assert data["convolutions"] == {"int8": 2, "promised": 3}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--backend", "tensorrt-rtx", "--target", "87"], "Jetson Orin"),
        ([*RTX, "-o", "no/such/folder/x.plan"], "does not exist"),
    ],
)
def test_wrong_arguments_are_explained(
    bundle: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", str(bundle), *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("backend", ["auto", "tensorrt"])
def test_without_tensorrt_the_remedy_is_named(
    bundle: Path, backend: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert main(["build", str(bundle), "--backend", backend]) == 2
    said = capsys.readouterr().err
    assert "no TensorRT found" in said
    assert "JetPack" in said
    assert "--backend tensorrt-rtx" in said


def test_a_precision_that_the_bundle_lacks_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = graphs()["model.onnx"]
    infos = {"model.onnx": GraphInfo("fp32", 0, 4)}
    manifest = Manifest("t", "semantic", "semantic", "fp32", (), Preprocess("image", (16, 16)), infos)
    write_bundle(tmp_path / "float.edge", manifest, {"model.onnx": graph.serialize()})
    assert main(["build", str(tmp_path / "float.edge"), *RTX, "--precision", "int8"]) == 2
    assert "has no int8 graph, it holds fp32" in capsys.readouterr().err


def test_a_full_disk_leaves_nothing_behind(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(["build", str(bundle), *RTX, "-o", str(tmp_path / "out.plan")]) == 2
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_stops_the_build_and_writes_nothing(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupting(Progress):
        def update(self, steps: int = 1, note: str = "") -> None:
            super().update(steps, note)
            if self.done == 5:
                _thread.interrupt_main()

    monkeypatch.setattr("edgevision.cli.build.Progress", Interrupting)
    assert main(["build", str(bundle), *RTX, "-o", str(tmp_path / "out.plan")]) == 130
    assert capsys.readouterr().err == "stopped\n"
    assert list(tmp_path.iterdir()) == []
