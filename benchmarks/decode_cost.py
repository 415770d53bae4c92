"""What a family's decode costs: the exported graph against the same network with its raw outputs, one thread.

    python -m benchmarks.decode_cost [--only TEXT] [--seconds S] [--at-most PERCENT] [--all] [--json FILE]

Both run in one process and in turn, and the time of the thread that does all the work is taken: what other programs do
meanwhile is not counted. The median of the ratios is judged, for the float graph and for ONNX Runtime's INT8 graph.
What the file itself does to its outputs (a sigmoid, a join) belongs to the network, and the export may undo some of it;
suppression is not part of a graph. The detectors are made on the spot with random weights; with --all, further families
and, where the folder `shared/` lies beside the checkout, trained files join in. Exits with 1 when a YOLO format of 640
pixels or an SSD format of 300 costs more than PERCENT.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.detectors import OTHERS, SSD_FORMATS, YOLO_FORMATS, Detector
from edgevision.backends.onnxruntime import OnnxRuntimeSession, open_session
from edgevision.calibration import CalibrationImages, collect_ranges
from edgevision.cli.output import finish, table
from edgevision.export import ExportConfig, prepare
from edgevision.export.emission import emit
from edgevision.export.folding import fold_constants
from edgevision.export.graph import DECODE_PREFIX, Graph
from edgevision.export.graph_loading import load_graph
from edgevision.export.placement import plan_placement
from edgevision.export.quantisation import Quantised
from edgevision.export.simplification import simplify
from edgevision.synthetic.dataset import write_dataset

_PICTURES = Path("build/bench/few_pictures")
_MODELS = Path(__file__).resolve().parents[2] / "shared" / "models"
_FASTEST_ANCHORS = "12,18,37,49,52,132,115,73,119,199,242,238"


def real_detectors() -> list[Detector]:
    """Trained files of other families, where they are there."""
    files: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("ssd_mobilenet_v1_coco_raw", "ssd", {"priors": str(_MODELS / "ssd_mobilenet_v1_coco_anchors.npy")}),
        ("yolox_nano", "yolox", {"preprocess": "torch"}),
        ("nanodet_m_416", "nanodet", {}),
        ("yolo_fastest_xl_320", "yolov3", {"head": {"anchors": _FASTEST_ANCHORS}}),
        ("yunet_n_640", "yunet", {}),
        ("ultraface_rfb_320", "ssd", {}),
    )
    return [
        Detector(name, family, (_MODELS / f"{name}.onnx").read_bytes, config)
        for name, family, config in files
        if (_MODELS / f"{name}.onnx").is_file()
    ]


def raw(file: bytes, prepared: Graph) -> Graph:
    """The network as the file holds it, up to its own outputs; what `prepared` keeps in float of it is float here."""
    graph = load_graph(file).graph
    fold_constants(graph)
    kept = {node.name for node in prepared.nodes if node.name.startswith(DECODE_PREFIX)}
    for node in graph.nodes:
        name = f"{DECODE_PREFIX}original/{node.name.lstrip('/')}"
        node.name = name if name in kept else node.name
    simplify(graph)
    return graph


def measure(detector: Detector, pictures: Path, seconds: float) -> dict[str, Any]:
    """Milliseconds of each graph raw and whole, and what the decode adds, in percent."""
    config = ExportConfig(
        precision="int8", family=detector.family, calibration_images=pictures, quiet=True, **detector.config
    )
    file = detector.build()
    prepared = prepare(file, config)
    graphs = {"raw": raw(file, prepared.graph), "whole": prepared.graph}
    images = CalibrationImages(pictures, 2)
    emitted = {}
    for side, graph in graphs.items():
        plan = plan_placement(graph)
        ranges = collect_ranges(graph.serialize(), plan.observed, images, prepared.preprocess, quiet=True)
        emitted[side] = emit(graph, "int8", Quantised(graph, graph, plan, ranges), prepared.preprocess).graphs
    found: dict[str, Any] = {"detector": detector.name, "family": prepared.family}
    for precision, name in (("float", "model.onnx"), ("int8", "cpu.onnx")):
        sides = [_Side(emitted[side][name]) for side in ("raw", "whole")]
        found[precision] = _in_turn(sides, seconds)
    return found


class _Side:
    """One graph and the picture it is given."""

    def __init__(self, graph: bytes) -> None:
        self.session: OnnxRuntimeSession = open_session(graph)
        spec = self.session.inputs[0]
        random = np.random.default_rng(0)
        values = random.integers(0, 256, spec.shape) if spec.dtype == "uint8" else random.normal(0, 1, spec.shape)
        self.inputs = {spec.name: values.astype(spec.dtype)}

    def seconds(self) -> float:
        start = time.thread_time()
        self.session.run(self.inputs)
        return time.thread_time() - start


def _in_turn(sides: Sequence[_Side], seconds: float) -> dict[str, float]:
    for side in (*sides, *sides):
        side.seconds()
    times: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 20:
        # Who goes first changes, so that neither always finds the caches the other left.
        order = (0, 1) if len(times) % 2 else (1, 0)
        taken = {index: sides[index].seconds() for index in order}
        times.append((taken[0], taken[1]))
    raw, whole = (statistics.median(column) * 1e3 for column in zip(*times, strict=True))
    added = statistics.median(b / a for a, b in times) - 1
    return {"raw_ms": round(raw, 3), "whole_ms": round(whole, 3), "added_percent": round(added * 100, 2)}


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; exit code 1 where a judged format costs too much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="detectors whose name holds this")
    parser.add_argument("--seconds", type=float, default=8.0, metavar="S", help="for each pair of graphs")
    parser.add_argument("--at-most", type=float, default=5.0, metavar="PERCENT")
    parser.add_argument("--all", action="store_true", help="show the families that are not judged as well")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args(arguments)
    judged = [*YOLO_FORMATS, *SSD_FORMATS]
    chosen = [*judged, *(real_detectors() if args.all else ()), *(OTHERS if args.all else ())]
    pictures = write_dataset(_PICTURES, range(20_000, 20_002), 1, quiet=True).images
    rows, results, missed = [], [], []
    for detector in chosen:
        if args.only.lower() not in detector.name.lower():
            continue
        result = measure(detector, pictures, args.seconds)
        results.append(result)
        sides = [result["float"], result["int8"]]
        over = max(side["added_percent"] for side in sides) > args.at_most
        if over and detector in judged:
            missed.append(detector.name)
        if not args.quiet:
            print(f"{detector.name}: float {sides[0]}, INT8 {sides[1]}", file=sys.stderr, flush=True)
        cells = [f"{value:.2f}" for side in sides for value in side.values()]
        rows.append([detector.name, detector.family, *cells, "" if detector not in judged else "no" if over else "yes"])
    header = ["one thread", "family", "float raw ms", "whole", "added %", "INT8 raw ms", "whole", "added %", "holds"]
    finish(args, {"detectors": results}, table(header, rows))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
