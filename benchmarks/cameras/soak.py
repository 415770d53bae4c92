"""A long run in short: many frames of two recordings and three cameras through the shipped detector, into files and a
page that somebody looks at all the time.

    python -m benchmarks.cameras.soak [--frames N] [--json FILE]

The recordings start again when they end, under new names; one of the cameras breaks every ten seconds and is opened
again. The visitor of the page, in a process of its own, reads the page, its data, its metrics and one camera's
pictures.

The claim: resident memory and open descriptors, of this process and of the processes that read its cameras, are flat:
in the last fifth they are at most 2 % (and 4 MiB) above the second fifth, medians compared. Percentiles are reported.
Exits with 1 when it does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgevision
from benchmarks.video_pipeline import write_clip
from edgevision import models
from edgevision.cli.output import finish, table
from edgevision.errors import UsageError
from edgevision.export import ExportConfig, export_model
from edgevision.machine import one_arena
from edgevision.pipeline import Pipeline
from edgevision.sinks import open_sink
from edgevision.sinks.web import LivePage
from edgevision.sources.base import DEAD, ENDED
from edgevision.synthetic.dataset import write_dataset

_GROWTH, _GROWTH_BYTES, _GROWTH_DESCRIPTORS = 1.02, 4 << 20, 2
_WAKE_S, _SAMPLE_S = 0.05, 1.0
# Short, so that the 64 ended sources that a pipeline keeps a report of are there within the first fifth.
_CLIP_FRAMES, _CLIP_SIZE_WH = 150, (640, 360)
_GSTREAMER = "gst:videotestsrc is-live=true {} ! video/x-raw,width=320,height=180,framerate={}/1"
_CAMERAS = {
    "ball": _GSTREAMER.format("pattern=ball", 30),
    "broken": _GSTREAMER.format("pattern=smpte num-buffers=50", 5),
    "drone": "synthetic://aerial?live=1&size=160x96&fps=5",
}


@dataclass(frozen=True)
class Sample:
    """Resident bytes and descriptors of this process, and of the readers together, after so many frames."""

    frames: int
    own_bytes: int
    own_descriptors: int
    readers: int
    readers_bytes: int
    readers_descriptors: int

    @classmethod
    def take(cls, frames: int, others: set[int]) -> Sample:
        """`others`: children that are no readers."""
        readers = [found for pid in _children() - others if (found := _process(str(pid))) is not None]
        own = _process("self")
        assert own is not None
        return cls(frames, *own, len(readers), sum(r[0] for r in readers), sum(r[1] for r in readers))


def _children() -> set[int]:
    """Processes that threads of this one have started."""
    found: set[int] = set()
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            found.update(map(int, (thread / "children").read_text().split()))
    return found


def _process(pid: str) -> tuple[int, int] | None:
    """Resident bytes and descriptors; None where it is gone."""
    folder = Path("/proc") / pid
    try:
        return int((folder / "statm").read_text().split()[1]) * 4096, len(list((folder / "fd").iterdir()))
    except (OSError, IndexError):
        return None


class Loops:
    """Recordings that are put in again when they end."""

    def __init__(self, pipeline: Pipeline, clip: Path) -> None:
        self._pipeline, self._clip = pipeline, clip
        self._running: dict[str, edgevision.Source] = {}
        self.rounds = 0

    def keep_up(self) -> None:
        """Replace those that are over."""
        for name, source in list(self._running.items()):
            if source.status.state in (ENDED, DEAD):
                del self._running[name]
        while len(self._running) < 2:
            self.rounds += 1
            name = f"clip{self.rounds}"
            source = self._running[name] = edgevision.open_source(self._clip, source_id=name)
            try:
                self._pipeline.add_source(source)
            except UsageError:  # the run has just ended
                source.close()


def prepare(folder: Path) -> None:
    """The bundle and the recording."""
    pictures = write_dataset(folder / "pictures", range(20_000, 20_008), 2).images
    config = ExportConfig(precision="int8", calibration_images=pictures, quiet=True)
    export_model(models.path("aerial_detector"), folder / "detector.edge", config)
    write_clip(folder / "clip.mp4", _CLIP_FRAMES, _CLIP_SIZE_WH)


def soak(folder: Path, frames: int) -> tuple[Pipeline, list[Sample], dict[str, Any], int]:
    """The run: the pipeline, which has ended; samples; what the visitor tells; rounds of the recordings."""
    # In a process of its own: exporting and encoding leave several times the memory of a runtime behind.
    code = f"import sys, pathlib; from {__spec__.name} import prepare; prepare(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
    sources = [edgevision.open_source(uri, source_id=name) for name, uri in _CAMERAS.items()]
    page = LivePage("127.0.0.1", 0)
    sinks = [*(open_sink(folder / file, sources) for file in ("out.jsonl", "out.csv")), page]
    samples: list[Sample] = []
    with edgevision.load(folder / "detector.edge", threads=1, quiet=True) as model:
        pipeline = Pipeline(model, sources, sinks, frames=frames, stay_open=True)
        loops = Loops(pipeline, folder / "clip.mp4")
        visitor = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.cameras.page_visitor", page.url, "ball"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        running = threading.Thread(target=pipeline.run)
        running.start()
        wakes = 0
        while running.is_alive():
            running.join(_WAKE_S)
            wakes += 1
            if running.is_alive():
                loops.keep_up()
            if wakes % round(_SAMPLE_S / _WAKE_S) == 0:
                samples.append(Sample.take(pipeline.report().processed, {visitor.pid}))
            if wakes % round(20 / _WAKE_S) == 0:
                print(f"{samples[-1].frames} frames, {samples[-1].own_bytes >> 20} MiB", file=sys.stderr, flush=True)
        told, _ = visitor.communicate(timeout=30)
    return pipeline, samples, json.loads(told), loops.rounds


def grown(samples: list[Sample]) -> tuple[list[list[str]], list[str]]:
    """A table's rows, and what is not flat."""
    first, last = samples[len(samples) // 5 : 2 * len(samples) // 5], samples[4 * len(samples) // 5 :]
    kinds: dict[str, tuple[Callable[[Sample], int], float, int]] = {
        "memory": (lambda s: s.own_bytes, 1 << 20, _GROWTH_BYTES),
        "descriptors": (lambda s: s.own_descriptors, 1, _GROWTH_DESCRIPTORS),
        "readers' memory": (lambda s: s.readers_bytes, 1 << 20, _GROWTH_BYTES),
        "readers' descriptors": (lambda s: s.readers_descriptors, 1, _GROWTH_DESCRIPTORS),
    }
    rows, problems = [], []
    for name, (value, unit, slack) in kinds.items():
        before, after = (statistics.median(map(value, part)) for part in (first, last))
        rows.append([name, f"{before / unit:.1f}", f"{after / unit:.1f}", f"{max(map(value, samples)) / unit:.1f}"])
        if after > max(_GROWTH * before, before + slack):
            problems.append(f"{name} grew from {before / unit:.1f} to {after / unit:.1f}")
    return rows, problems


def main() -> int:
    """Run, sample, judge."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--json", metavar="FILE")
    parser.set_defaults(quiet=False)
    args = parser.parse_args()
    logging.getLogger("edgevision").setLevel(logging.ERROR)
    one_arena()  # as `edgevision run` does
    with tempfile.TemporaryDirectory() as name:
        pipeline, samples, visitor, rounds = soak(Path(name), args.frames)
    report = pipeline.report()
    rows, problems = grown(samples)
    reconnects = sum(source.reconnects for source in report.sources)
    if visitor["wrong"] or not visitor["pictures"] or not reconnects:
        problems.append(f"the visitor saw {visitor}, cameras were opened again {reconnects} times")
    percentiles = ["p50", "p90", "p99", "p999", "max"]
    stages = {**report.latency_ms, "age of result": report.age_ms}
    stage_rows = [[stage, *(f"{summary[each]:.2f}" for each in percentiles)] for stage, summary in stages.items()]
    verdict = f"missed: {'; '.join(problems)}" if problems else "the claim holds here"
    text = (
        f"{table(['ms', *percentiles], stage_rows)}\n\n"
        f"{table(['MiB or number', 'second fifth', 'last fifth', 'most'], rows)}\n\n"
        f"{report.processed} frames in {report.duration_s:.0f} s; {rounds} recordings, {reconnects} reconnects, "
        f"the page read {visitor['rounds']} times and {visitor['pictures']} of its pictures; {verdict}"
    )
    figures = {"report": report.to_json(), "samples": [vars(s) for s in samples], "visitor": visitor}
    finish(args, {**figures, "missed": problems}, text)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
