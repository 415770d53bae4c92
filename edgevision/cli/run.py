"""`edgevision run`: sources through a model into sinks."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack

import edgevision.sinks
import edgevision.sources
from edgevision.cli.backend import add_backend_arguments, backend_text
from edgevision.cli.logs import json_log
from edgevision.cli.output import finish
from edgevision.errors import EdgeVisionError, UsageError
from edgevision.machine import one_arena
from edgevision.manifest import PRECISIONS
from edgevision.pipeline import LaneModel, Pipeline
from edgevision.progress import Progress
from edgevision.registry import understood
from edgevision.sinks import open_sink
from edgevision.sources import open_sources
from edgevision.sources.options import READERS, SourceOptions

_SEARCH = "selective-search"
_OF_A_DETECTOR = ("confidence", "iou", "classes", "max_detections", "precision")

HELP = "run cameras, videos or pictures through a bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument(
        "bundle",
        metavar="BUNDLE",
        help=f"model.edge, written by: edgevision export; or {_SEARCH}: boxes without a model, for --classify",
    )
    parser.add_argument(
        "source", metavar="SOURCE", nargs="+", help="cameras, videos, pictures; several run side by side"
    )
    parser.add_argument("--sink", metavar="URI", action="append", default=[], help="where results go; repeatable")
    parser.add_argument("--confidence", type=float, metavar="P", help="least confidence, 0..1 (default: the bundle's)")
    parser.add_argument("--iou", type=float, metavar="P", help="overlap that suppresses a box, 0..1")
    parser.add_argument("--classes", metavar="NAMES", help="only these, by name or number: car,truck")
    parser.add_argument("--max-detections", type=int, metavar="N", help="boxes per picture")
    parser.add_argument(
        "--classify", metavar="BUNDLE", help="a classifier for what is in the boxes; its classes replace the detector's"
    )
    cameras = parser.add_argument_group("cameras and other live sources")
    cameras.add_argument(
        "--max-age-ms", type=float, metavar="MS", help="skip frames that are older when their turn comes"
    )
    cameras.add_argument(
        "--every-frame", action="store_true", help="keep up to 32 waiting frames of each, not the newest only"
    )
    cameras.add_argument(
        "--reader", choices=READERS, default="auto", help="what reads them (auto: GStreamer for RTSP if there, else av)"
    )
    cameras.add_argument(
        "--timeout",
        type=float,
        metavar="S",
        default=SourceOptions.timeout_s,
        help=f"seconds of silence after which one is opened anew (default: {SourceOptions.timeout_s:g})",
    )
    cameras.add_argument(
        "--give-up", type=float, metavar="S", help="end one that is lost for so many seconds (default: never)"
    )
    parser.add_argument("--log", metavar="FILE", help="append what happens to FILE as lines of JSON (- for stderr)")
    parser.add_argument("--duration", type=float, metavar="S", help="stop after this many seconds")
    parser.add_argument("--frames", type=int, metavar="N", help="stop after this many results")
    add_backend_arguments(parser)
    parser.add_argument("--precision", choices=PRECISIONS, help="which graph runs (default: the bundle's best here)")
    parser.add_argument(
        "--graph", choices=("auto", "cpu", "tensorrt"), default="auto", help="whose form of the graph runs on the CPU"
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        f"sources:\n{understood(edgevision.sources)}\n\nsinks:\n{understood(edgevision.sinks)}\n"
        "  {source} in a sink's name gives each source an output of its own"
    )


def run(args: argparse.Namespace) -> int:
    """Run until the sources end, a limit is reached or Ctrl-C; then report."""
    if len(set(args.sink)) < len(args.sink):
        raise UsageError(f"each --sink is an output of its own, got one twice: {' '.join(args.sink)}")
    one_arena()
    code = 0
    with ExitStack() as opened:
        opened.enter_context(json_log(args.log))
        model, runs = _open_model(args, opened)
        sources = [
            opened.enter_context(source)
            for source in open_sources(
                args.source,
                timeout_s=args.timeout,
                give_up_s=args.give_up,
                every_frame=args.every_frame,
                reader=args.reader,
                nv12=runs is model and model.backend != "cpu",
            )
        ]
        sinks = []
        for uri in args.sink:
            sinks.append(open_sink(uri, sources))
            opened.callback(sinks[-1].close)
        counts = [source.frame_count for source in sources]
        total = args.frames or (None if None in counts else sum(count or 0 for count in counts))
        with Progress("run", total, quiet=args.quiet) as progress:
            pipeline = Pipeline(
                runs,
                sources,
                sinks,
                max_age_ms=args.max_age_ms,
                frames=args.frames,
                duration_s=args.duration,
                every_frame=args.every_frame,
                on_result=lambda *_: progress.update(),
            )
            # Whatever ends the run, what was processed until then is written and reported.
            error: EdgeVisionError | None = None
            try:
                pipeline.run()
            except KeyboardInterrupt:
                code = 130
            except EdgeVisionError as caught:
                code, error = 2, caught
            finally:
                if pipeline.left_behind:  # what a thread that hangs still uses cannot be closed: that would hang too
                    opened.pop_all()
        facts, report = model.facts(), pipeline.report()
        finish(args, {**report.to_json(), "model": facts}, f"{report.text()}\n{backend_text(facts)}")
        if error is not None:
            print(f"error: {error}", file=sys.stderr)
        if pipeline.left_behind:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return code


def _open_model(args: argparse.Namespace, opened: ExitStack) -> tuple[edgevision.Model, LaneModel]:
    """The model whose facts are reported, and what runs: itself, or a cascade."""
    detector = None if args.bundle == _SEARCH else _open_detector(args, opened)
    if args.classify is None:
        if detector is None:
            raise UsageError(f"{_SEARCH} finds boxes but no classes: give --classify BUNDLE")
        return detector, detector
    given = [name for name in _OF_A_DETECTOR if getattr(args, name) is not None]
    if detector is None and given:
        raise UsageError(f"--{given[0].replace('_', '-')} is for a detector: leave it out with {_SEARCH}")
    classifier = opened.enter_context(
        edgevision.load_classifier(args.classify, backend=args.backend, device=args.device, quiet=args.quiet)
    )
    cascade = edgevision.Cascade(detector or edgevision.SelectiveSearch(), classifier)
    opened.callback(cascade.close)
    return detector or classifier, cascade


def _open_detector(args: argparse.Namespace, opened: ExitStack) -> edgevision.Model:
    classes = [int(name) if name.isdecimal() else name for name in args.classes.split(",")] if args.classes else None
    return opened.enter_context(
        edgevision.load(
            args.bundle,
            backend=args.backend,
            device=args.device,
            precision=args.precision,
            graph=args.graph,
            threads=1,
            confidence=args.confidence,
            iou=args.iou,
            classes=classes,
            max_detections=args.max_detections,
            quiet=args.quiet,
        )
    )
