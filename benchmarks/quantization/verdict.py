"""Do the claims hold: what INT8 may lose, and that no peer does better."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.quantization.methods import METHODS, OURS, OURS_CPU, U8S8, Method
from benchmarks.quantization.steps import speed_up

MOST_POINTS_LOST = 1.0
LEAST_RECALL_KEPT = 0.97
ERRORS = 2
"""Standard errors of the difference by which ours may look worse than the best of several and still be called as
accurate: the best of several noisy figures flatters itself."""
MOST_MEMORY_GROWTH = 1.1
LEAST_SPEED = 0.97
"""Of two that are equally quick, each is measured a little slower half of the time."""

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Lead:
    """How much more accurate ours is than something else, on the same pictures with the same noise.

    Attributes:
        points: of the model's metric; less than 0 where the other is better.
        runs: standard error of the runs' differences: what the noise does on these pictures.
        pictures: standard deviation of the difference over resamples of the pictures, of the mean over the runs: what
            other pictures would do. It holds the noise, too, which is drawn for each picture on its own and so is
            resampled with it; nothing is to be added.
    """

    points: float
    runs: float
    pictures: float

    def __str__(self) -> str:
        return f"{self.points:+.2f} ±{self.runs:.2f} runs ±{self.pictures:.2f} pictures"

    @property
    def within(self) -> bool:
        """Ours is better, or worse by no more than the errors can explain."""
        return -self.points <= ERRORS * self.pictures


def judge(results: Mapping[str, Result]) -> list[dict[str, Any]]:
    """Every claim for every model: `row` of the goals, `model`, `goal`, `holds` (None: not measured), `found`."""
    verdicts = []
    for model, result in results.items():
        for row, goal, (holds, found) in (
            (1, f"default INT8 loses at most {MOST_POINTS_LOST:g} point (+ 1 standard error)", _loss_bounded(result)),
            (1, f"recall at least {LEAST_RECALL_KEPT:.0%} of float's", _recall_kept(result)),
            (3, f"as accurate as each peer's best setting (within {ERRORS} errors of pictures)", _as_accurate(result)),
            (3, "export as quick as each peer's histogram methods", _as_quick(result)),
            (3, "peak memory does not grow with the number of pictures", _memory_flat(result)),
            (3, "the CPU's graph as fast as ONNX Runtime's U8S8, or float chosen and said", _as_fast(result)),
            (3, "the CPU's graph as accurate as TensorRT's (within the errors)", _cpu_accurate(result)),
        ):
            verdicts.append({"row": row, "model": model, "goal": goal, "holds": holds, "found": found})
    return verdicts


def loss(result: Result, name: str, over: str = "float") -> tuple[float, float] | None:
    """Points of the model's metric that a method loses against float or another method, and their standard error,
    both of the runs' paired differences; None where one of them was not measured."""
    own, other = _accuracy(result, name), _accuracy(result, over)
    if own is None or other is None:
        return None
    key = result["metric"]
    points = [100 * (b[key] - a[key]) for a, b in zip(own["runs"], other["runs"], strict=True)]
    return statistics.fmean(points), statistics.stdev(points) / len(points) ** 0.5


def lead(result: Result, over: str) -> Lead | None:
    """Ours over `float` or another method; None where one of them was not measured."""
    ours, other = _accuracy(result, OURS.name), _accuracy(result, over)
    behind = loss(result, over, OURS.name)
    if behind is None:
        return None
    differences = np.subtract(ours["resampled"], other["resampled"])
    return Lead(*behind, 100 * float(np.nanstd(differences, ddof=1)))


def leads(result: Result) -> dict[str, Lead]:
    """Ours over `float` and over every setting of a peer for TensorRT that was measured."""
    others = [m.name for methods in _peers(result).values() for m in methods if m.graph == OURS.graph]
    found = {name: lead(result, name) for name in ("float", *others)}
    return {name: ahead for name, ahead in found.items() if ahead is not None}


def recall_kept(result: Result, name: str) -> float | None:
    """A method's recall as a share of float's; None for a segmenter or where not measured."""
    own, other = _accuracy(result, name), result["float"]
    key = "recall_at_threshold"
    if own is None or not other["figures"].get(key):
        return None
    return float(own["figures"][key] / other["figures"][key])


def _accuracy(result: Result, name: str) -> Any:
    return result["float"] if name == "float" else result["methods"].get(name, {}).get("accuracy")


def _peers(result: Result) -> dict[str, list[Method]]:
    """The settings of each peer that were measured, by peer."""
    found: dict[str, list[Method]] = {}
    for method in METHODS:
        if method.maker != OURS.maker and "accuracy" in result["methods"].get(method.name, {}):
            found.setdefault(method.maker, []).append(method)
    return found


def _loss_bounded(result: Result) -> tuple[bool | None, str]:
    lost = loss(result, OURS.name)
    if lost is None:
        return None, ""
    return lost[0] <= MOST_POINTS_LOST + lost[1], f"{lost[0]:.2f} ±{lost[1]:.2f} points"


def _recall_kept(result: Result) -> tuple[bool | None, str]:
    kept = recall_kept(result, OURS.name)
    return (None, "") if kept is None else (kept >= LEAST_RECALL_KEPT, f"{kept:.1%}")


def _as_accurate(result: Result) -> tuple[bool | None, str]:
    """Against the best of each peer's settings for TensorRT."""
    known, outcomes, words = leads(result), [], []
    for methods in _peers(result).values():
        settings = sorted((m for m in methods if m.name in known), key=lambda m: known[m.name].points)
        for number, method in enumerate(settings):
            ahead = known[method.name]
            if number == 0 or not ahead.within:  # the best, and others that are surely better than ours
                outcomes.append(ahead.within)
                better = ", which is better on these pictures" if ahead.points < 0 else ""
                words.append(f"{ahead} to {method.title}{better}")
    return all(outcomes) if outcomes else None, "; ".join(words)


def _as_quick(result: Result) -> tuple[bool | None, str]:
    own = result["methods"].get(OURS.name, {}).get("export")
    others = [m for methods in _peers(result).values() for m in methods if m.histogram]
    if own is None or not others:
        return None, ""
    costs = {m.title: result["methods"][m.name]["export"] for m in others}
    # While other programs run, the clock measures them; the processor's time is each program's own.
    busy = any(cost["load"] > (os.cpu_count() or 1) for cost in (own, *costs.values()))
    kind = "cpu_s" if busy else "wall_s"
    words = [f"{title} {cost[kind]:.0f} s" for title, cost in costs.items()]
    said = "of processor time, on a busy machine" if busy else "on the clock"
    quickest = min(cost[kind] for cost in costs.values())
    return LEAST_SPEED * own[kind] <= quickest, f"{own[kind]:.0f} s to {', '.join(words)}, {said}"


def _memory_flat(result: Result) -> tuple[bool | None, str]:
    own, fewer = result["methods"].get(OURS.name, {}).get("export"), result.get("fewer_pictures")
    if own is None or not fewer:
        return None, ""
    found = f"{own['peak_mib']} MiB for {own['pictures']} pictures, {fewer['peak_mib']} MiB for {fewer['pictures']}"
    return own["peak_mib"] <= MOST_MEMORY_GROWTH * fewer["peak_mib"], found


def _as_fast(result: Result) -> tuple[bool | None, str]:
    rounds = result["speed"]["rounds_ms"]
    own, peer = result["methods"].get(OURS_CPU.name, {}).get("accuracy"), speed_up(rounds, U8S8.name)
    if own is None:
        return None, ""
    if "float_because" in own:
        against = "" if peer is None else f" (U8S8 runs {peer:.2f} times as fast as float)"
        return True, f"{own['float_because']}{against}"
    ratio = speed_up(rounds, OURS_CPU.name, U8S8.name)
    return (None, "") if ratio is None else (ratio >= LEAST_SPEED, f"{ratio:.2f} times as fast")


def _cpu_accurate(result: Result) -> tuple[bool | None, str]:
    behind = loss(result, OURS_CPU.name, OURS.name)
    if behind is None:
        return None, ""
    if "float_because" in result["methods"][OURS_CPU.name]["accuracy"]:
        return True, "float, which loses nothing"
    return behind[0] <= ERRORS * behind[1], f"{-behind[0]:+.2f} ±{behind[1]:.2f} points"
