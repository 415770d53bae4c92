"""The work on one model: the network for the peers, exports, accuracy, speed. Every step is kept in a Store."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.quantization.graft import network_of, with_decode
from benchmarks.quantization.methods import FLOAT, OURS, OURS_CPU, Method
from benchmarks.quantization.store import Store
from benchmarks.quantization.subjects import Subject
from edgevision.backends.onnxruntime import open_session
from edgevision.bundle import Bundle, write_bundle
from edgevision.calibration import CalibrationImages
from edgevision.evaluation import evaluate, open_dataset
from edgevision.export import ExportConfig, prepare
from edgevision.export.verification import input_tensors
from edgevision.files import sha256
from edgevision.manifest import GraphInfo

_ROOT = Path(__file__).resolve().parents[2]
_TIMEOUT_S = 3600
_FIGURES = ("map_50_95", "map_50", "miou", "recall_at_threshold", "precision_at_threshold")


class QuantiserError(Exception):
    """A quantiser could not do its work on a model."""


@dataclass(frozen=True)
class Protocol:
    """How everything is measured.

    Attributes:
        repeats: dithered runs, with the same noise for every graph.
        confidence: at which recall is taken.
        calibration_limit: pictures to calibrate on.
        limit: pictures to judge; None: all.
        rounds: of timing.
        resamples: of the pictures that are judged, the same for every graph.
    """

    repeats: int = 4
    confidence: float = 0.3
    calibration_limit: int = 512
    limit: int | None = None
    rounds: int = 25
    resamples: int = 1000


class Work:
    """One model on its way through all methods."""

    def __init__(self, subject: Subject, folder: Path, protocol: Protocol, modelopt_python: str | None) -> None:
        self.subject, self.protocol = subject, protocol
        self.store = Store(folder.absolute() / subject.name)
        self._pythons = {"quantise_modelopt": modelopt_python}
        self._images = CalibrationImages(subject.pictures, protocol.calibration_limit)
        self._prepared = prepare(subject.file, ExportConfig(precision="fp32", **subject.options))
        self.metric = "miou" if self._prepared.nms is None else "map_50_95"
        self._origin = {
            "model": self._prepared.source_sha256,
            "options": dict(subject.options),
            "pictures": self._images.sha256,
        }
        self._accuracy_key = {
            **self._origin,
            "dataset": subject.dataset,
            "repeats": protocol.repeats,
            "limit": protocol.limit,
            "confidence": protocol.confidence,
            "resamples": protocol.resamples,
        }

    def can(self, method: Method) -> bool:
        """Whether the method's quantiser is here."""
        return self._pythons.get(method.module, sys.executable) is not None

    def export(self, method: Method, pictures: int | None = None) -> dict[str, Any]:
        """Quantise in a process of its own: `wall_s`, `cpu_s`, `peak_mib`, `pictures`, `versions`.

        Args:
            pictures: fewer than the protocol says, to see what that does to the memory; the result is thrown away.

        Raises:
            QuantiserError: it failed; the message ends as its own does.
        """
        if method.export_of:
            return self.export(OURS, pictures)
        count = len(self._images) if pictures is None else pictures
        name = f"{method.name}.export" if pictures is None else f"{method.name}.export_{pictures}"
        key = {**self._origin, "count": count}
        return self.store.measure(name, key, lambda: self._export(method, count, keep=pictures is None))

    def _export(self, method: Method, count: int, *, keep: bool) -> dict[str, Any]:
        folder = self.store.folder
        raw, bundle = folder / f"{method.name}.onnx", folder / f"{method.name}.edge"
        ours = method.maker == OURS.maker
        job: dict[str, Any] = {"output": str(folder / "fewer.edge" if not keep else bundle) if ours else str(raw)}
        if ours:
            job |= {"model": str(self.subject.file), "pictures": self.subject.pictures, "limit": count}
            job |= {"options": dict(self.subject.options)}
        else:
            job |= {"model": str(self._network()), "inputs": str(self._inputs()), "setting": method.setting}
            job |= {"input_name": self._prepared.preprocess.input_name}
        jobs, figures = folder / f"{method.name}.job.json", folder / f"{method.name}.figures.json"
        jobs.write_text(json.dumps(job))
        python = self._pythons.get(method.module) or sys.executable
        module = f"benchmarks.quantization.{method.module}"
        command = [python, "-m", "benchmarks.quantization.measured", str(figures), module, str(jobs)]
        start = time.perf_counter()
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=_TIMEOUT_S)
        wall = time.perf_counter() - start
        if done.returncode:
            raise QuantiserError(done.stderr.strip()[-600:])
        if not ours:
            self._write_bundle(method.graph, with_decode(onnx.load(raw), self._prepared.graph), bundle)
        made_by = {"commit": _commit()} if ours else {}
        return {"wall_s": round(wall, 2), "pictures": count, **made_by, **json.loads(figures.read_text())}

    def _network(self) -> Path:
        path = self.store.folder / "network.onnx"
        onnx.save(network_of(self._prepared.graph), path)
        return path

    def _inputs(self) -> Path:
        """The pictures as the network takes them: reading them is no peer's work."""
        path = self.store.folder / "inputs.npy"
        np.save(path, np.concatenate(input_tensors(self._prepared.preprocess, self._images, len(self._images))))
        return path

    def _write_bundle(self, graph: str, model: onnx.ModelProto | None, path: Path) -> None:
        files = {"model.onnx": self._prepared.graph.serialize()}
        infos = {"model.onnx": GraphInfo("fp32")}
        if model is not None:
            files[graph], infos[graph] = model.SerializeToString(), GraphInfo("int8")
        write_bundle(path, self._prepared.manifest(infos, "model.onnx", "a benchmark's"), files)

    def float_accuracy(self) -> dict[str, Any]:
        """See `accuracy`; of the model before quantisation."""
        path = self.store.folder / f"{FLOAT}.edge"
        self._write_bundle("", None, path)
        return self._accuracy(path, "model.onnx", "fp32")

    def accuracy(self, method: Method) -> dict[str, Any]:
        """`figures` {name: mean}, `runs`, the figures of each, and `resampled`, the metric's mean over the runs for
        each resample of the pictures; `float_because` where our bundle holds no INT8 graph for the CPU, and float runs
        there."""
        return self._accuracy(self._bundle(method), method.graph, "int8")

    def _accuracy(self, path: Path, graph: str, precision: str) -> dict[str, Any]:
        """Kept by content: what two settings make alike is judged once."""
        bundle = sha256(path.read_bytes())
        name = f"accuracy.{graph.removesuffix('.onnx')}.{bundle[:16]}"
        return self.store.measure(
            name, {**self._accuracy_key, "bundle": bundle}, lambda: self._evaluate(path, graph, precision)
        )

    def _evaluate(self, path: Path, graph: str, precision: str) -> dict[str, Any]:
        bundle = Bundle(path)
        if graph not in bundle.manifest.graphs:
            found = self.float_accuracy()
            held = {key: found[key] for key in ("figures", "runs", "resampled")}
            return {**held, "float_because": bundle.manifest.cpu_graph_reason}
        dataset = open_dataset(self.subject.dataset)
        found = evaluate(
            bundle,
            dataset,
            precision=precision,
            graph="tensorrt" if graph == "tensorrt.onnx" else "cpu",
            repeats=self.protocol.repeats,
            confidence=self.protocol.confidence,
            limit=self.protocol.limit,
            draws=draw(len(dataset.pictures[: self.protocol.limit]), self.protocol.resamples),
        )
        return {
            "figures": {key: found[key] for key in _FIGURES if found[key] is not None},
            "runs": found["runs"],
            "resampled": np.mean(found["resampled"], axis=0).tolist(),
        }

    def _bundle(self, method: Method) -> Path:
        return self.store.folder / f"{method.export_of or method.name}.edge"

    def speed(self, methods: Sequence[Method]) -> dict[str, Any]:
        """`rounds_ms` {method: milliseconds of each round}, `float` among them: one thread each, in turn."""
        exported = {method.name: sha256(self._bundle(method).read_bytes()) for method in methods}
        key = {"bundles": exported, "rounds": self.protocol.rounds}
        return self.store.measure("speed", key, lambda: {"rounds_ms": self._time(methods)})

    def _time(self, methods: Sequence[Method]) -> Mapping[str, list[float]]:
        graphs = {FLOAT: (Bundle(self.store.folder / f"{FLOAT}.edge"), "model.onnx")}
        for method in methods:
            bundle = Bundle(self._bundle(method))
            if method.graph in bundle.manifest.graphs:
                graphs[method.name] = (bundle, method.graph)
        runs = {}
        for name, (bundle, graph) in graphs.items():
            session = open_session(bundle.read(graph), threads=1)
            tensor = input_tensors(bundle.manifest.preprocess_of(graph), self._images, 1)[0]
            runs[name] = (session, {session.inputs[0].name: tensor})
        times: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(self.protocol.rounds + 2):
            for name, (session, feed) in runs.items():
                start = time.perf_counter()
                session.run(feed)
                if number >= 2:  # the first two warm up
                    times[name].append(round(1e3 * (time.perf_counter() - start), 4))
        return times


def draw(pictures: int, resamples: int) -> NDArray[np.int64]:
    """(resamples, pictures) how often each is drawn, as many as there are, with replacement."""
    return np.random.default_rng(0).multinomial(pictures, np.full(pictures, 1 / pictures), resamples)


def _commit() -> str:
    """Of this checkout; empty where it is none."""
    command = ["git", "-C", str(_ROOT), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except OSError:
        return ""


def speed_up(rounds_ms: Mapping[str, Sequence[float]], name: str, over: str = FLOAT) -> float | None:
    """How many times faster one graph is than another: the median over the rounds. Where our bundle holds no INT8
    graph for the CPU, float runs there."""
    name, over = (FLOAT if key == OURS_CPU.name and key not in rounds_ms else key for key in (name, over))
    if name not in rounds_ms or over not in rounds_ms:
        return None
    return statistics.median(b / a for a, b in zip(rounds_ms[name], rounds_ms[over], strict=True))
