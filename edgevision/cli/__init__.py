"""The command line: `edgevision <verb>`. One module per verb, found by its file name.

A verb module has `HELP` (one line), `add_arguments(parser)` and `run(args) -> int`. Exit codes: 0 done, 1 a stated
goal was missed, 2 bad usage or input, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import edgevision
from edgevision.errors import EdgeVisionError

VERBS = ("export", "build", "info", "run", "eval", "bench", "doctor", "demo")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\nSee: {self.prog} --help\n")


def _parser(verb: str | None) -> argparse.ArgumentParser:
    """The argument parser; only the module of `verb` is imported in full, so that one verb stays quick to start."""
    parser = _Parser(prog="edgevision", description="Trained vision models on edge boards, and cameras through them.")
    parser.add_argument("--version", action="version", version=f"edgevision {edgevision.__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)
    for name in VERBS:
        if verb in VERBS and name != verb:
            verbs.add_parser(name)
            continue
        module = importlib.import_module(f"edgevision.cli.{name}")
        sub = verbs.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(sub)
        sub.add_argument("--json", metavar="FILE", help="also write the result as JSON ('-': to standard output)")
        sub.add_argument("--quiet", action="store_true", help="no progress and no text; errors only")
        sub.set_defaults(run=module.run)
    return parser


def _stop(signum: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    parser = _parser(arguments[0] if arguments else None)
    args = parser.parse_args(arguments)
    if args.json not in (None, "-") and not Path(args.json).absolute().parent.is_dir():
        parser.error(f"--json {args.json}: folder {Path(args.json).absolute().parent} does not exist; create it first")
    with contextlib.suppress(ValueError):  # not the main thread: Ctrl-C is the embedding program's business
        signal.signal(signal.SIGTERM, _stop)
    try:
        code: int = args.run(args)
    except EdgeVisionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) went away: not an error, but Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code
