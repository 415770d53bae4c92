"""Eight sources through one detector, while one after the other dies and sources come and go.

    python -m benchmarks.cameras.many [--seconds S] [--json FILE]

Four RTSP cameras, two recordings that start again when they end, two synthetic cameras. First all of them undisturbed,
then with one RTSP camera killed or frozen every few seconds and a synthetic one added and removed again and again.

What is fair is found twice a second: all results of that half second in equal parts among the sources, but to none
more than it offered, and what one leaves to the others (max-min). A camera offers the frames that it captured, a
recording as many as one likes. The claim: with all the trouble, every undisturbed source gets at least 95 % of its fair
share; recordings lose no frame. Its rate before is printed beside: a ninth source and reopened cameras take from all,
where the machine is the limit. Exits with 1 when the claim does not hold.
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgevision
from benchmarks.cameras.camera_process import ClockCamera
from benchmarks.video_pipeline import write_clip
from edgevision import models
from edgevision.cli.output import finish, table
from edgevision.export import ExportConfig, export_model
from edgevision.pipeline import Pipeline
from edgevision.sources.base import LIVE
from edgevision.synthetic.dataset import write_dataset

_CAMERAS = 4
_LEAST = 0.95
_SYNTHETIC = "synthetic://aerial?live=1&size=320x180&fps=10"
_CLIP_FRAMES, _SAMPLE_S = 300, 0.5


@dataclass(frozen=True)
class Count:
    """A source so far; `source_id` and `state` are those of a recording's latest round."""

    captured: int = 0
    processed: int = 0
    source_id: str = ""
    state: str = ""

    def offered(self, before: Count) -> float:
        """Since then. A recording that was opened or ended meanwhile had no more than what it gave."""
        if not self.source_id.startswith("recording"):
            return self.captured - before.captured
        if (self.source_id, LIVE, LIVE) == (before.source_id, before.state, self.state):
            return math.inf
        return self.processed - before.processed


@dataclass
class Share:
    """Results of a source, and how many were fair."""

    got: float = 0.0
    fair: float = 0.0


def fair_shares(total: float, offers: Mapping[str, float]) -> dict[str, float]:
    """Max-min: equal parts, but to nobody more than it offers, and what it leaves to the others."""
    shares: dict[str, float] = {}
    for name in sorted(offers, key=lambda name: offers[name]):
        shares[name] = min(offers[name], (total - sum(shares.values())) / (len(offers) - len(shares)))
    return shares


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

    def _count(self) -> dict[str, Count]:
        """So far, per source; a recording's rounds together. Starts ended recordings again."""
        counts: dict[str, Count] = {}
        for source in self.pipeline.report().sources:
            name = source.source_id.partition("-")[0]
            before = counts.get(name, Count())
            captured, processed = before.captured + source.captured, before.processed + source.processed
            counts[name] = Count(captured, processed, source.source_id, source.state)
        for i in range(2):
            if counts[f"recording{i}"].processed >= _CLIP_FRAMES * (self._rounds[i] + 1):
                self._rounds[i] += 1
                name = f"recording{i}-{self._rounds[i]}"
                self.pipeline.add_source(edgevision.open_source(self._clip, source_id=name))
        return counts

    def watch(self, seconds: float, disturb: Callable[[float], None] | None = None) -> dict[str, Share]:
        """What each source got, and what was fair."""
        shares: dict[str, Share] = {}
        start = time.monotonic()
        before, next_at = self._count(), start + _SAMPLE_S
        while (now := time.monotonic()) < start + seconds:
            if disturb is not None:
                disturb(now)
            counts = self._count()
            if now >= next_at:
                next_at = now + _SAMPLE_S
                got = {name: count.processed - before.get(name, Count()).processed for name, count in counts.items()}
                offers = {name: count.offered(before.get(name, Count())) for name, count in counts.items()}
                for name, fair in fair_shares(sum(got.values()), offers).items():
                    share = shares.setdefault(name, Share())
                    share.got, share.fair = share.got + got[name], share.fair + fair
                before = counts
            time.sleep(0.05)
        return shares

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


def _figures(share: Share, seconds: float) -> list[str]:
    return [f"{share.got / seconds:.1f}", f"{share.got / share.fair:.2f}"]


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
            calm = show.watch(args.seconds)
            troubled = show.watch(args.seconds, trouble)
        finally:
            trouble.end()
            show.close()
        report = show.pipeline.report()
    lossy = [
        s.source_id for s in report.sources if s.source_id.startswith("recording") and set(s.dropped) - {"stopped"}
    ]
    kept = {name: share.got / share.fair for name, share in troubled.items() if name in calm and name != "camera0"}
    missed = [f"{name} kept {share:.0%}" for name, share in kept.items() if share < _LEAST]
    missed += [f"{name} lost frames" for name in lossy]
    header = ["source", "calm /s", "of fair", "troubled /s", "of fair", "of calm"]
    rows = [[name, *_figures(calm[name], args.seconds), *_figures(troubled[name], args.seconds)] for name in calm]
    for row in rows:
        row.append(f"{troubled[row[0]].got / calm[row[0]].got:.2f}")
    verdict = f"missed: {'; '.join(missed)}" if missed else "the claim holds here"
    parts = {"calm": calm, "troubled": troubled}
    figures = {part: {name: vars(share) for name, share in shares.items()} for part, shares in parts.items()}
    finish(args, {**figures, "missed": missed}, f"{table(header, rows)}\n{trouble.events} events; {verdict}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
