"""`edgevision doctor`."""

from __future__ import annotations

import argparse
import dataclasses

from edgevision.cli.output import finish
from edgevision.doctor import OK, PROBLEM, examine

HELP = "say what works on this machine, what does not, and how to fix it"

_MARKS = {OK: "ok", PROBLEM: "FIX"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own."""


def run(args: argparse.Namespace) -> int:
    """Print the findings; 1 when something that should work does not."""
    findings = examine()
    width = max(len(f.subject) for f in findings)
    lines = []
    for finding in findings:
        lines.append(f"{_MARKS.get(finding.state, '-'):>4}  {finding.subject.ljust(width)}  {finding.detail}")
        if finding.remedy:
            lines.append(f"{'':>4}  {'':{width}}  -> {finding.remedy}")
    problems = sum(f.state == PROBLEM for f in findings)
    lines.append(f"\n{problems} problem(s)" if problems else "\nnothing to fix")
    data = {"findings": [dataclasses.asdict(f) for f in findings], "problems": problems}
    finish(args, data, "\n".join(lines))
    return 1 if problems else 0
