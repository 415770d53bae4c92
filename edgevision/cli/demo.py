"""`edgevision demo`."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgevision.cli.output import finish

HELP = "do the whole job once, on the camera and the two models that ship with the package"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's flags."""
    parser.add_argument(
        "--output", type=Path, default=Path("demo"), metavar="DIR", help="where results go [%(default)s]"
    )
    parser.add_argument("--pictures", type=int, default=60, metavar="N", help="labelled pictures to score")
    parser.add_argument("--frames", type=int, default=300, metavar="N", help="camera frames to process")


def run(args: argparse.Namespace) -> int:
    """Run every step; stops at the first that fails, with that step's exit code."""
    from edgevision.demo import Demo

    demo = Demo(args.output, args.pictures, args.frames, quiet=args.quiet)
    report = demo.run()
    finish(args, report, demo.summary())
    return 0
