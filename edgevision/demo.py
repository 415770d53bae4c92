"""The whole job once, on what ships with the package, through the command line's own verbs.

Each step prints the command that a user would type, runs it, and keeps its JSON for the report.
"""

from __future__ import annotations

import contextlib
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from edgevision import cli, models
from edgevision.bundle import Bundle
from edgevision.cli.output import table
from edgevision.contact_sheet import contact_sheet, write_png
from edgevision.drawing import draw
from edgevision.errors import EdgeVisionError, UsageError
from edgevision.files import atomic_path
from edgevision.model import load
from edgevision.results import Detections, Result, SegmentationMap
from edgevision.synthetic import DETECTION_CLASSES, SEGMENTATION_CLASSES, AerialScene
from edgevision.synthetic.dataset import SyntheticDataset, write_dataset

# Neither the training nor each other's: see examples/training for the seeds the models were trained on.
_CALIBRATION_SEED, _HELD_OUT_SEED, _CAMERA_SEED = 20_000, 10_000, 30_000
_CALIBRATION_PICTURES = 48
_PICTURES_PER_SCENE = 2
_SHEET_PICTURES = 3
_CELL_WH = (480, 270)
_PERCENTILES = ("p50", "p90", "p99")
_METRICS = {"map_50": "mAP50", "miou": "mIoU"}


class Demo:
    """The steps, what they found, and the report on them."""

    def __init__(self, folder: Path, pictures: int, frames: int, *, quiet: bool) -> None:
        """Results go into `folder`; `pictures` are scored and `frames` of the camera processed.

        Raises:
            UsageError: `folder` cannot be made, or a number is not positive.
        """
        if pictures < 1 or frames < 1:
            raise UsageError(f"--pictures and --frames are at least 1, got {pictures} and {frames}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--output {folder} cannot be made: {error}") from error
        self._folder, self._pictures, self._frames, self._quiet = folder, pictures, frames, quiet
        self.results: dict[str, dict[str, Any]] = {}

    def run(self) -> dict[str, Any]:
        """Do everything; returns the report that also stands in `report.json`.

        Raises:
            EdgeVisionError: a step failed.
        """
        data = self._folder / "data"
        calibration = self._render(data / "calibration", _CALIBRATION_SEED, _CALIBRATION_PICTURES)
        held_out = self._render(data / "held_out", _HELD_OUT_SEED, self._pictures)
        for name, spec in (("aerial_detector", held_out.coco_spec), ("aerial_segmenter", held_out.masks_spec)):
            bundle = str(self._folder / f"{name}.edge")
            camera = f"synthetic://aerial?seed={_CAMERA_SEED}&frames={self._frames}"
            self.results[name] = {
                "export": self._verb(
                    "export",
                    str(models.path(name)),
                    "--precision=int8",
                    f"--calibration-images={calibration.images}",
                    "-o",
                    bundle,
                ),
                "eval": self._verb("eval", bundle, f"--dataset={spec}", "--compare"),
                "bench": self._verb("bench", bundle, "--compare", "--duration=5"),
                "run": self._verb(
                    "run", bundle, camera, f"--sink={self._folder / name}.mp4", f"--sink={self._folder / name}.jsonl"
                ),
            }
        self._draw_sheet()
        self._write_reports()
        return self.results

    def _render(self, folder: Path, seed: int, pictures: int) -> SyntheticDataset:
        scenes = -(-pictures // _PICTURES_PER_SCENE)
        self._say(f"rendering {scenes * _PICTURES_PER_SCENE} labelled pictures into {folder}")
        return write_dataset(folder, range(seed, seed + scenes), _PICTURES_PER_SCENE, quiet=self._quiet)

    def _verb(self, *arguments: str) -> dict[str, Any]:
        """Run one command as the user would, and return its JSON."""
        self._say(f"\n$ edgevision {shlex.join(arguments)}")
        answer = self._folder / "step.json"
        code = cli.main([*arguments, "--json", str(answer), *(["--quiet"] if self._quiet else [])])
        if code == 130:
            raise KeyboardInterrupt
        if code:
            raise EdgeVisionError(f"the demo stopped: edgevision {arguments[0]} ended with exit code {code}")
        data: dict[str, Any] = json.loads(answer.read_text())
        answer.unlink()
        return data

    def _say(self, text: str) -> None:
        if not self._quiet:
            print(text, flush=True)

    def _draw_sheet(self) -> None:
        """Held-out pictures with the truth, the float model and the INT8 model side by side."""
        rows = []
        with contextlib.ExitStack() as opened:
            pairs = [
                [opened.enter_context(load(self._folder / f"{name}.edge", precision=p)) for p in ("fp32", "int8")]
                for name in self.results
            ]
            for seed in range(_HELD_OUT_SEED, _HELD_OUT_SEED + _SHEET_PICTURES):
                frame = AerialScene(seed).render(0, with_class_map=True)
                assert frame.class_map is not None
                boxes = Detections(frame.xyxy, np.ones(len(frame.xyxy), np.float32), frame.class_id, DETECTION_CLASSES)
                classes = SegmentationMap(frame.class_map, SEGMENTATION_CLASSES)
                truths: tuple[Result, ...] = (boxes, classes)
                for truth, pair in zip(truths, pairs, strict=True):
                    versions = [truth, *(model(frame.image) for model in pair)]
                    rows.append([draw(frame.image, version) for version in versions])
        write_png(self._folder / "contact_sheet.png", contact_sheet(("truth", "float", "INT8"), rows, _CELL_WH))

    def _write_reports(self) -> None:
        text = f"# edgevision demo\n\n```\n{self.summary()}\n```\n\n![contact sheet](contact_sheet.png)\n"
        try:
            for name, content in (("report.json", json.dumps(self.results, indent=1)), ("report.md", text)):
                with atomic_path(self._folder / name) as path:
                    path.write_text(content)
        except OSError as error:
            raise UsageError(f"the report cannot be written into {self._folder}: {error}") from error

    def summary(self) -> str:
        """Accuracy, size and latency of every version, and what was written, for people."""
        lines = []
        for name, steps in self.results.items():
            bundle = Bundle(self._folder / f"{name}.edge")
            graphs = steps["eval"]["graphs"]
            metric = "map_50" if steps["export"]["task"] == "detection" else "miou"
            rows = []
            for graph, scores in graphs.items():
                latency = _latency_ms(steps["bench"], graph)
                times = [f"{latency[key]:.1f}" for key in _PERCENTILES] if latency else ["-"] * len(_PERCENTILES)
                size = bundle.manifest.files[graph].bytes / 1e6
                rows.append([graph, scores["precision"], f"{scores[metric]:.3f}", f"{size:.2f}", *times])
            lines.append(f"{name}, {steps['eval']['images']} held-out pictures of the synthetic camera")
            lines.append(
                table(["graph", "precision", _METRICS[metric], "MB", *(f"{p} ms" for p in _PERCENTILES)], rows)
            )
            run, chosen = steps["run"], bundle.manifest
            lines.append(f"on this CPU: {chosen.cpu_graph} ({chosen.cpu_graph_reason})")
            lines.append(
                f"camera: {run['frames']['processed']} frames at {run['fps']:.1f} frames/s, decoded to drawn\n"
            )
        lines.append("Latency is one picture at a time, preprocessing to boxes; '-': TensorRT's graphs are for a GPU.")
        lines.append(
            f"Look at {self._folder / 'contact_sheet.png'}, {self._folder}/*.mp4 and {self._folder / 'report.md'}"
        )
        return "\n".join(lines)


def _latency_ms(bench: dict[str, Any], graph: str) -> dict[str, float] | None:
    """Latency of one of the CPU's graphs; None for graphs that are not for the CPU."""
    part = {"model.onnx": "float", "cpu.onnx": "int8"}.get(graph)
    measured = bench.get(part, bench if bench.get("graph") == graph else None) if part else None
    return None if measured is None else dict(measured["latency_ms"])
