"""A long run in short: many frames of a recording and two cameras through the shipped detector, into files and a page.

    python -m benchmarks.cameras.soak [--frames N] [--json FILE]

The claim: resident memory and open descriptors are flat: after the first fifth neither grows by more than 2 % (and
4 MiB) to the end. Percentiles are reported. Exits with 1 when it does not hold.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import threading
from pathlib import Path

import edgevision
from benchmarks.video_pipeline import write_clip
from edgevision import models
from edgevision.cli.output import finish, table
from edgevision.export import ExportConfig, export_model
from edgevision.pipeline import Pipeline
from edgevision.sinks import open_sink
from edgevision.synthetic.dataset import write_dataset

_GROWTH, _GROWTH_BYTES = 1.02, 4 << 20
_SAMPLE_S = 1.0
_CLIP_FRAMES = 600
_GSTREAMER = "gst:videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=180,framerate=30/1"


def resident_bytes() -> int:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def main() -> int:
    """Run, sample, judge."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--json", metavar="FILE")
    parser.set_defaults(quiet=False)
    args = parser.parse_args()
    logging.getLogger("edgevision").setLevel(logging.ERROR)
    samples: list[tuple[int, int, int]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = write_dataset(folder / "pictures", range(20_000, 20_008), 2).images
        bundle, clip = folder / "detector.edge", folder / "clip.mp4"
        config = ExportConfig(precision="int8", calibration_images=pictures, quiet=True)
        export_model(models.path("aerial_detector"), bundle, config)
        write_clip(clip, _CLIP_FRAMES)
        sources = [
            edgevision.open_source(clip, source_id="clip0"),
            edgevision.open_source(_GSTREAMER, source_id="ball"),
            edgevision.open_source("synthetic://aerial?live=1&size=160x96&fps=5", source_id="drone"),
        ]
        sinks = [open_sink(folder / file, sources) for file in ("out.jsonl", "out.csv")]
        sinks.append(open_sink("http://127.0.0.1:0", sources))
        model = edgevision.load(bundle, threads=1, quiet=True)
        pipeline = Pipeline(model, sources, sinks, frames=args.frames, stay_open=True)
        running = threading.Thread(target=pipeline.run)
        running.start()
        rounds = 0
        while running.is_alive():
            running.join(_SAMPLE_S)
            report = pipeline.report()
            descriptors = len(list(Path("/proc/self/fd").iterdir()))
            samples.append((report.processed, resident_bytes(), descriptors))
            clips = [source for source in report.sources if source.source_id == f"clip{rounds}"]
            if clips[0].state == "ended" and running.is_alive():
                rounds += 1
                pipeline.add_source(edgevision.open_source(clip, source_id=f"clip{rounds}"))
            if len(samples) % 20 == 0:
                print(f"{report.processed} frames, {samples[-1][1] >> 20} MiB", file=sys.stderr, flush=True)
        report = pipeline.report()
    model.close()
    settled = [sample for sample in samples[:-1] if sample[0] > args.frames / 5]
    first, last = settled[0], max(settled[-5:], key=lambda sample: sample[1])
    problems = []
    if last[1] > max(_GROWTH * first[1], first[1] + _GROWTH_BYTES):
        problems.append(f"memory grew from {first[1] >> 20} to {last[1] >> 20} MiB")
    if settled[-1][2] > first[2] + 2:  # one recording being opened
        problems.append(f"descriptors grew from {first[2]} to {settled[-1][2]}")
    names = ["p50", "p90", "p99", "p999", "max"]
    stages = {**report.latency_ms, "age of result": report.age_ms}
    rows = [[stage, *(f"{summary[each]:.2f}" for each in names)] for stage, summary in stages.items()]
    verdict = f"missed: {'; '.join(problems)}" if problems else "the claim holds here"
    text = (
        f"{table(['ms', *names], rows)}\n{report.processed} frames in {report.duration_s:.0f} s, "
        f"{first[1] >> 20} to {last[1] >> 20} MiB, {first[2]} to {settled[-1][2]} descriptors; {verdict}"
    )
    finish(args, {"report": report.to_json(), "samples": samples, "missed": problems}, text)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
