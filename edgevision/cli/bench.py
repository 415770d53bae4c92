"""`edgevision bench`: how fast a bundle is on this machine."""

from __future__ import annotations

import argparse
from typing import Any

from edgevision.cli.backend import add_backend_arguments, backend_text
from edgevision.cli.output import finish, table
from edgevision.manifest import PRECISIONS

HELP = "latency and throughput of a bundle on this machine"

_SHOWN = ("mean", "p50", "p90", "p99", "p999", "max")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle written by edgevision export")
    parser.add_argument(
        "--scenario",
        choices=("single-stream", "multi-stream", "offline", "pipeline"),
        default="single-stream",
        help="one picture at a time, 8 at once, all cores busy, or live cameras",
    )
    parser.add_argument("--duration", type=float, default=10.0, metavar="S", help="least time to measure, seconds")
    add_backend_arguments(parser)
    parser.add_argument("--precision", choices=PRECISIONS, help="which graph runs (default: the bundle's best here)")
    parser.add_argument(
        "--graph", choices=("auto", "cpu", "tensorrt"), default="auto", help="whose form of the graph runs on the CPU"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="cores that one inference uses")
    parser.add_argument("--sources", type=int, metavar="N", help="cameras of the pipeline scenario (default: 1)")
    parser.add_argument("--compare", action="store_true", help="float against INT8, one after the other in turn")


def run(args: argparse.Namespace) -> int:
    from edgevision.benchmark import benchmark, benchmark_int8
    from edgevision.errors import UsageError

    if args.compare:
        others = (args.scenario, args.precision, args.graph, args.sources)
        if others != ("single-stream", None, "auto", None) or args.backend not in ("auto", "cpu"):
            raise UsageError(
                "--compare runs float and INT8 on the CPU, one picture at a time: only --duration and --threads apply"
            )
        data = benchmark_int8(args.bundle, duration_s=args.duration, threads=args.threads, quiet=args.quiet)
    else:
        data = benchmark(
            args.bundle,
            scenario=args.scenario,
            backend=args.backend,
            device=args.device,
            duration_s=args.duration,
            precision=args.precision,
            graph=args.graph,
            threads=args.threads,
            sources=args.sources,
            quiet=args.quiet,
        )
    finish(args, data, text(data))
    return 0


def text(data: dict[str, Any]) -> str:
    """A benchmark's result for people."""
    facts = data["machine"]
    lines = [f"{data['bundle']} on {facts['board'] or facts['cpu']}, {facts['cores']} cores: {data['scenario']}", ""]
    if "speedup" in data:
        lines += _comparison(data)
    elif "age_ms" in data:
        lines += _run(data)
    else:
        stages = {"latency": data["latency_ms"], **data["stages_ms"]}
        lines += [_times(stages), ""]
        lines.append(
            f"{data['fps']:.1f} pictures/s, {data['count']} queries, {data['graph']} ({data['precision']}), "
            f"{data['lanes']} lane(s) of {data['threads']} thread(s)"
        )
    if "model" in data:
        lines.append(backend_text(data["model"]))
    lines.append(_conditions(data["telemetry"]))
    return "\n".join([*lines, *(f"note: {warning}" for warning in data["warnings"])])


def _times(stages: dict[str, dict[str, float]]) -> str:
    keys = [key for key in _SHOWN if any(key in times for times in stages.values())]
    rows = [[stage, *(f"{times[key]:.2f}" for key in keys)] for stage, times in stages.items()]
    return table(["ms", *keys], rows)


def _comparison(data: dict[str, Any]) -> list[str]:
    stages = {
        f"{name} {stage}": times
        for name in ("float", "int8")
        for stage, times in {"latency": data[name]["latency_ms"], **data[name]["stages_ms"]}.items()
    }
    ratio = {stage: f"{r['median']:.2f}x ({r['p25']:.2f} to {r['p75']:.2f})" for stage, r in data["speedup"].items()}
    return [
        _times(stages),
        "",
        f"INT8 is {ratio['inference']} as fast as float in inference, {ratio['total']} in all: "
        f"median (quartiles) of {data['count']} pairs, {data['threads']} thread(s)",
    ]


def _run(data: dict[str, Any]) -> list[str]:
    frames = data["frames"]
    dropped = ", ".join(f"{count} {cause}" for cause, count in frames["dropped"].items()) or "none"
    return [
        _times({**data["latency_ms"], "age of result": data["age_ms"]}),
        "",
        f"{data['fps']:.1f} frames/s of {len(data['sources'])} camera(s), {data['graph']} ({data['precision']}), "
        f"{data['lanes']} lane(s); {frames['processed']} of {frames['captured']} frames, dropped: {dropped}",
    ]


def _conditions(telemetry: dict[str, Any]) -> str:
    """Power, temperature and clocks, or that they cannot be read here."""
    parts = []
    if telemetry["power_w"]:
        parts.append(f"{telemetry['power_w']['mean']:.1f} W ({telemetry['power_w']['source']})")
    if telemetry["temperature_c"]:
        parts.append(f"up to {max(telemetry['temperature_c']['max'].values()):.0f} °C")
    if telemetry["clock_mhz"]:
        parts.append(f"{telemetry['clock_mhz']['mean']:.0f} MHz")
    missing = [key.partition("_")[0] for key in telemetry["not_measured"]]
    if missing:
        parts.append(f"not readable here: {', '.join(missing)}")
    return "; ".join(parts)
