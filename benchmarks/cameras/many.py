"""Eight sources through one detector, while one after the other dies and sources come and go.

    python -m benchmarks.cameras.many [--seconds S] [--json FILE]

Four RTSP cameras, two recordings that start again when they end, two synthetic cameras. First all of them undisturbed,
then with one RTSP camera killed or frozen every few seconds and a synthetic one added and removed again and again.

The claim: in the second part every undisturbed source keeps at least 95 % of its rate in the first; recordings lose no
frame. Where the model is the limit, a ninth source alone takes more than that. Exits with 1 when it does not hold.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import edgevision
from benchmarks.cameras.camera_process import ClockCamera
from benchmarks.video_pipeline import write_clip
from edgevision import models
from edgevision.cli.output import finish, table
from edgevision.export import ExportConfig, export_model
from edgevision.pipeline import Pipeline
from edgevision.synthetic.dataset import write_dataset

_CAMERAS = 4
_LEAST = 0.95
_SYNTHETIC = "synthetic://aerial?live=1&size=320x180&fps=10"
_CLIP_FRAMES = 150


class Show:
    """The pipeline, its cameras, and the recordings that are put in again."""

    def __init__(self, folder: Path) -> None:
        pictures = write_dataset(folder / "pictures", range(20_000, 20_008), 2).images
        bundle = folder / "detector.edge"
        export_model(
            models.path("aerial_detector"),
            bundle,
            ExportConfig(precision="int8", calibration_images=pictures, quiet=True),
        )
        self.cameras = [ClockCamera() for _ in range(_CAMERAS)]
        self._clip = folder / "clip.mp4"
        write_clip(self._clip, _CLIP_FRAMES)
        sources = [
            edgevision.open_source(camera.uri, source_id=f"camera{i}", timeout_s=3.0)
            for i, camera in enumerate(self.cameras)
        ]
        sources += [edgevision.open_source(f"{_SYNTHETIC}&seed={i}", source_id=f"synthetic{i}") for i in range(2)]
        sources += [edgevision.open_source(self._clip, source_id=f"recording{i}-0") for i in range(2)]
        self._rounds = [0, 0]
        self.pipeline = Pipeline(edgevision.load(bundle, threads=1, quiet=True), sources, stay_open=True)
        self._thread = threading.Thread(target=self.pipeline.run)
        self._thread.start()

    def processed(self) -> dict[str, int]:
        """Results so far per source; a recording's rounds together. Starts ended recordings again."""
        counts: dict[str, int] = {}
        for source in self.pipeline.report().sources:
            name = source.source_id.partition("-")[0]
            counts[name] = counts.get(name, 0) + source.processed
        for i in range(2):
            if counts[f"recording{i}"] >= _CLIP_FRAMES * (self._rounds[i] + 1):
                self._rounds[i] += 1
                name = f"recording{i}-{self._rounds[i]}"
                self.pipeline.add_source(edgevision.open_source(self._clip, source_id=name))
        return counts

    def rates(self, seconds: float, disturb: Any = None) -> dict[str, float]:
        """Results per second and source."""
        before, start = self.processed(), time.monotonic()
        while (now := time.monotonic()) < start + seconds:
            if disturb is not None:
                disturb(now)
            self.processed()
            time.sleep(0.05)
        return {name: (count - before.get(name, 0)) / seconds for name, count in self.processed().items()}

    def close(self) -> None:
        self.pipeline.stop()
        self._thread.join()
        for camera in self.cameras:
            camera.kill()


class Trouble:
    """Every few seconds something happens to camera 0, or a synthetic camera joins or leaves."""

    def __init__(self, show: Show) -> None:
        self._show, self._dice = show, random.Random(1)
        self._next, self._visitors = time.monotonic(), 0
        self._repair: Any = None
        self.events = 0

    def __call__(self, now: float) -> None:
        if now < self._next:
            return
        self._next, self.events = now + self._dice.uniform(1.0, 2.5), self.events + 1
        victim = self._show.cameras[0]
        if self._repair is not None:
            self._repair()
            self._repair = None
        elif self._dice.random() < 0.6:
            if self._dice.random() < 0.5:
                victim.kill()
                self._repair = victim.start
            else:
                victim.freeze()
                self._repair = victim.thaw
        elif self._visitors % 2 == 0:
            self._visitors += 1
            uri = f"{_SYNTHETIC}&seed=9"
            self._show.pipeline.add_source(edgevision.open_source(uri, source_id=f"visitor{self._visitors}"))
        else:
            self._show.pipeline.remove_source(f"visitor{self._visitors}")
            self._visitors += 1

    def end(self) -> None:
        if self._repair is not None:
            self._repair()


def main() -> int:
    """Measure, print and judge."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=25.0, help="of each part")
    parser.add_argument("--json", metavar="FILE")
    parser.set_defaults(quiet=False)
    args = parser.parse_args()
    logging.getLogger("edgevision").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        show = Show(Path(folder))
        trouble = Trouble(show)
        try:
            time.sleep(5.0)
            calm = show.rates(args.seconds)
            troubled = show.rates(args.seconds, trouble)
        finally:
            trouble.end()
            show.close()
        report = show.pipeline.report()
    lossy = [
        s.source_id for s in report.sources if s.source_id.startswith("recording") and set(s.dropped) - {"stopped"}
    ]
    watched = [name for name in calm if name != "camera0"]
    kept = {name: troubled[name] / calm[name] for name in watched}
    missed = [f"{name} kept {share:.0%}" for name, share in kept.items() if share < _LEAST]
    missed += [f"{name} lost frames" for name in lossy]
    rows = [[name, f"{calm[name]:.1f}", f"{troubled[name]:.1f}", f"{troubled[name] / calm[name]:.2f}"] for name in calm]
    verdict = f"missed: {'; '.join(missed)}" if missed else "the claim holds here"
    text = f"{table(['source', 'calm /s', 'troubled /s', 'share'], rows)}\n{trouble.events} events; {verdict}"
    finish(args, {"calm": calm, "troubled": troubled, "missed": missed}, text)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
