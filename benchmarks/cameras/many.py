"""Eight sources through one detector, while one after the other dies and sources come and go.

    python -m benchmarks.cameras.many [--seconds S] [--json FILE]

Four RTSP cameras, two recordings that start again when they end, two synthetic cameras. First all of them undisturbed,
then with one RTSP camera killed or frozen every few seconds and a synthetic one added and removed again and again.

What is fair is found four times a second: all results of that quarter in equal parts among the sources, but to none
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
from collections import Counter
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
from edgevision.frame import Frame
from edgevision.pipeline import Pipeline
from edgevision.results import Result
from edgevision.sources.base import ENDED, LIVE, Source
from edgevision.synthetic.dataset import write_dataset

_CAMERAS = 4
_LEAST = 0.95
_SYNTHETIC = "synthetic://aerial?live=1&size=320x180&fps=10"
_CLIP_FRAMES, _SAMPLE_S = 300, 0.25


@dataclass(frozen=True)
class Count:
    """A source so far. `live` is the source that gives frames, None where none does."""

    captured: int
    processed: int
    live: Source | None

    def offered(self, before: Count) -> float:
        """Since then. A recording that was opened or ended meanwhile had no more than what it gave."""
        if self.live is not None and not self.live.live and self.live is before.live:
            return math.inf
        return self.captured - before.captured


_NOTHING = Count(0, 0, None)


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
        self._sources: dict[str, list[Source]] = {}
        self._processed: Counter[str] = Counter()
        sources = [self._open(f"camera{i}", camera.uri) for i, camera in enumerate(self.cameras)]
        sources += [self._open(f"synthetic{i}", f"{_SYNTHETIC}&seed={i}") for i in range(2)]
        sources += [self._open(f"recording{i}", self._clip) for i in range(2)]
        model = edgevision.load(bundle, threads=1, quiet=True)
        self.pipeline = Pipeline(model, sources, stay_open=True, on_result=self._note)
        self._thread = threading.Thread(target=self.pipeline.run)
        self._thread.start()

    def _open(self, name: str, uri: str | Path) -> Source:
        rounds = self._sources.setdefault(name, [])
        source = edgevision.open_source(uri, source_id=f"{name}-{len(rounds)}", timeout_s=3.0)
        rounds.append(source)
        return source

    def add(self, name: str, uri: str | Path) -> None:
        """One more source, or the next round of a recording."""
        self.pipeline.add_source(self._open(name, uri))

    def remove(self, name: str) -> None:
        """Take a source out."""
        self.pipeline.remove_source(self._sources[name][-1].status.source_id)

    def _note(self, frame: Frame, result: Result, timing_ms: Mapping[str, float]) -> None:
        self._processed[frame.source_id.partition("-")[0]] += 1

    def _count(self) -> dict[str, Count]:
        """So far, per source; a recording's rounds together. Starts ended recordings again."""
        counts = {}
        for name, rounds in list(self._sources.items()):
            live = rounds[-1] if rounds[-1].status.state == LIVE else None
            counts[name] = Count(sum(source.status.captured for source in rounds), self._processed[name], live)
            if not rounds[-1].live and rounds[-1].status.state == ENDED:
                self.add(name, self._clip)
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
                earlier = {name: before.get(name, _NOTHING) for name in counts}
                got = {name: count.processed - earlier[name].processed for name, count in counts.items()}
                offers = {name: count.offered(earlier[name]) for name, count in counts.items()}
                for name, fair in fair_shares(sum(got.values()), offers).items():
                    share = shares.setdefault(name, Share())
                    share.got, share.fair = share.got + got[name], share.fair + fair
                before = counts
            time.sleep(0.02)
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
            self._show.add(f"visitor{self._visitors}", f"{_SYNTHETIC}&seed=9")
        else:
            self._show.remove(f"visitor{self._visitors}")
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
