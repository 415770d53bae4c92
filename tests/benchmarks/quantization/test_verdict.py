"""The claims, on made-up runs whose losses are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.quantization.steps import draw, speed_up
from benchmarks.quantization.verdict import judge, lead, leads, loss, recall_kept

FLOAT = [0.30, 0.31, 0.30, 0.31]


def entry(
    points: list[float], *, pictures: float = 0.0, seconds: float = 10.0, recall: float = 0.5, **accuracy: Any
) -> dict[str, Any]:
    """A method that loses so many points in each run, on other pictures `pictures` more or less: four resamples."""
    accuracy["resampled"] = [0.3 - (sum(points) / 4 + sign * pictures) / 100 for sign in (1, -1, 1, -1)]
    runs = [{"map_50_95": a - b / 100, "recall_at_threshold": recall} for a, b in zip(FLOAT, points, strict=True)]
    export = {"wall_s": seconds, "cpu_s": 3 * seconds, "peak_mib": 300, "pictures": 30, "load": 0.0}
    return {"export": export, "accuracy": {"figures": {"recall_at_threshold": recall}, "runs": runs, **accuracy}}


def result(**methods: dict[str, Any]) -> dict[str, Any]:
    """Of one model; an underscore in a method's name stands for its hyphen."""
    return {
        "metric": "map_50_95",
        "float": entry([0.0] * 4)["accuracy"],
        "methods": {name.replace("_", "-"): found for name, found in methods.items()},
        "fewer_pictures": {"peak_mib": 290, "pictures": 10},
        "speed": {"rounds_ms": {"float": [10.0, 12.0, 11.0]}},
    }


def verdict(found: dict[str, Any], words: str) -> tuple[bool | None, str]:
    """Holds or not, and what was found, of the claim with these words."""
    matching = [(v["holds"], v["found"]) for v in judge({"net": found}) if words in v["goal"]]
    assert len(matching) == 1
    return matching[0]


def test_a_loss_is_of_paired_runs() -> None:
    mean, error = loss(result(edgevision=entry([1.0, 2.0, 3.0, 4.0])), "edgevision") or (0, 0)
    assert mean == pytest.approx(2.5)
    assert error == pytest.approx((5 / 3) ** 0.5 / 2)  # variance 5/3 of 1, 2, 3, 4; four runs
    assert loss(result(), "edgevision") is None


@pytest.mark.parametrize(
    ("points", "holds"), [([0.99] * 4, True), ([1.2] * 4, False), ([0.8, 1.6, 0.8, 1.6], True), ([-1.0] * 4, True)]
)
def test_a_point_may_be_lost_and_the_error_of_its_measurement(points: list[float], holds: bool) -> None:
    assert verdict(result(edgevision=entry(points)), "loses at most")[0] is holds


def test_recall_is_a_share_of_floats() -> None:
    found = result(edgevision=entry([0.0] * 4, recall=0.48))
    assert recall_kept(found, "edgevision") == pytest.approx(0.96)
    assert verdict(found, "recall") == (False, "96.0%")
    assert verdict(result(edgevision=entry([0.0] * 4, recall=0.49)), "recall")[0] is True


def test_a_lead_has_the_errors_of_runs_and_of_pictures_of_the_difference() -> None:
    ours, peer = entry([0.0, 1.0, 0.0, 1.0], pictures=5.0), entry([1.0] * 4, pictures=4.0)
    found = lead(result(edgevision=ours, modelopt_max=peer), "modelopt-max")
    assert found is not None
    assert found.points == pytest.approx(0.5)
    assert found.runs == pytest.approx((1 / 3) ** 0.5 / 2)  # variance 1/3 of 0, 1, 0, 1; four runs
    assert found.pictures == pytest.approx((4 / 3) ** 0.5)  # 1 more or less in four resamples: what both do is nobody's
    assert lead(result(edgevision=ours), "modelopt-max") is None


def test_ours_is_compared_with_float_and_every_setting_for_tensorrt() -> None:
    names = ("edgevision", "edgevision_cpu", "onnxruntime_minmax", "onnxruntime_u8s8", "modelopt_max")
    assert set(leads(result(**{name: entry([0.0] * 4) for name in names}))) == {
        "float",
        "onnxruntime-minmax",
        "modelopt-max",
    }


def test_ours_meets_each_peers_best_setting() -> None:
    ours, worse, better = entry([1.0] * 4), entry([3.0] * 4), entry([0.5] * 4)
    assert verdict(result(edgevision=ours, onnxruntime_minmax=worse), "best setting")[0] is True
    holds, found = verdict(
        result(edgevision=ours, onnxruntime_minmax=worse, onnxruntime_entropy=better, modelopt_max=worse),
        "best setting",
    )
    assert holds is False
    assert found == (
        "-0.50 ±0.00 runs ±0.00 pictures to onnxruntime Entropy, which is better on these pictures; "
        "+2.00 ±0.00 runs ±0.00 pictures to modelopt max"
    )


@pytest.mark.parametrize(("pictures", "holds"), [(0.3, True), (0.2, False)])
def test_behind_by_less_than_two_errors_of_pictures_is_as_accurate_and_said(pictures: float, holds: bool) -> None:
    """The error is 2 / sqrt(3) of what four resamples add and take away; half a point behind."""
    ours, better = entry([0.5] * 4, pictures=pictures), entry([0.0] * 4)
    found = verdict(result(edgevision=ours, onnxruntime_minmax=better), "best setting")
    assert found[0] is holds
    assert found[1].startswith("-0.50 ")
    assert found[1].endswith("onnxruntime MinMax, which is better on these pictures")


def test_a_best_setting_that_may_be_luck_hides_no_other_that_is_surely_better() -> None:
    ours, luck, sure = entry([1.0] * 4), entry([0.0] * 4, pictures=1.0), entry([0.5] * 4)
    holds, found = verdict(result(edgevision=ours, onnxruntime_minmax=luck, onnxruntime_entropy=sure), "best setting")
    assert holds is False
    assert [words.split(" ")[0] for words in found.split("; ")] == ["-1.00", "-0.50"]


def test_noise_of_the_runs_alone_excuses_nothing() -> None:
    ours, better = entry([1.0, 0.0, 1.0, 0.0]), entry([0.0] * 4)  # half a point, with an error of 0.29
    assert verdict(result(edgevision=ours, onnxruntime_minmax=better), "best setting")[0] is False


def test_resampling_pictures_shows_what_runs_and_pictures_do_to_a_mean() -> None:
    """Of a plain mean over pictures the error is known: that of the pictures' means over the runs, noise included."""
    rng = np.random.default_rng(1)
    for spread in (0.0, 2.0):
        runs = spread * rng.normal(size=200) + rng.normal(size=(4, 200))
        resampled = draw(200, 4000) @ runs.mean(axis=0) / 200
        expected = runs.mean(axis=0).std() / 200**0.5
        assert resampled.std() == pytest.approx(expected, rel=0.05)
        assert expected == pytest.approx(((spread**2 + 1 / 4) / 200) ** 0.5, rel=0.15)


def test_draws_are_the_same_for_all_and_each_of_as_many_pictures_as_there_are() -> None:
    found = draw(7, 50)
    assert (found == draw(7, 50)).all()
    assert (found.sum(axis=1) == 7).all()
    assert (found != 1).any(axis=1).mean() > 0.9


def test_the_graph_for_the_cpu_is_no_rival_of_those_for_tensorrt() -> None:
    found = result(edgevision=entry([1.0] * 4), onnxruntime_u8s8=entry([0.0] * 4))
    assert verdict(found, "best setting")[0] is None


def test_export_is_timed_by_the_clock_on_a_quiet_machine_and_by_the_processor_on_a_busy_one() -> None:
    ours, peer, plain = entry([0.0] * 4, seconds=9), entry([0.0] * 4, seconds=10), entry([0.0] * 4, seconds=1)
    found = result(edgevision=ours, onnxruntime_entropy=peer, onnxruntime_minmax=plain)
    assert verdict(found, "quick") == (True, "9 s to onnxruntime Entropy 10 s, on the clock")
    ours["export"].update(cpu_s=40.0, load=1000.0)
    assert verdict(found, "quick") == (
        False,
        "40 s to onnxruntime Entropy 30 s, of processor time, on a busy machine",
    )


@pytest.mark.parametrize(("peak", "holds"), [(318, True), (330, False)])
def test_memory_may_not_grow_with_the_pictures(peak: int, holds: bool) -> None:
    found = result(edgevision=entry([0.0] * 4))
    found["methods"]["edgevision"]["export"]["peak_mib"] = peak
    assert verdict(found, "memory")[0] is holds


@pytest.mark.parametrize(("ours_ms", "holds"), [(4.0, True), (5.1, True), (6.0, False)])
def test_our_cpu_graph_is_as_fast_as_u8s8(ours_ms: float, holds: bool) -> None:
    found = result(edgevision_cpu=entry([0.0] * 4), onnxruntime_u8s8=entry([0.0] * 4))
    found["speed"]["rounds_ms"] |= {"edgevision-cpu": [ours_ms] * 3, "onnxruntime-u8s8": [5.0] * 3}
    assert verdict(found, "U8S8")[0] is holds


def test_or_float_is_chosen_and_said() -> None:
    found = result(edgevision_cpu=entry([0.0] * 4, float_because="float, because INT8 is slow here"))
    holds, words = verdict(found, "U8S8")
    assert holds is True
    assert "INT8 is slow here" in words
    assert speed_up(found["speed"]["rounds_ms"], "edgevision-cpu") == 1


@pytest.mark.parametrize(("behind", "holds"), [(0.05, True), (1.0, False)])
def test_our_cpu_graph_is_as_accurate_as_tensorrts_unless_it_is_float(behind: float, holds: bool) -> None:
    """INT8 may by chance do better than float: that is no reason against float."""
    ours, cpu = entry([-0.5, -0.4, -0.6, -0.5]), [behind - 0.5, behind - 0.3, behind - 0.7, behind - 0.5]
    goal = "as accurate as TensorRT's"
    assert verdict(result(edgevision=ours, edgevision_cpu=entry(cpu)), goal)[0] is holds
    chosen = entry([0.0] * 4, float_because="float, because INT8 is slow here")
    assert verdict(result(edgevision=ours, edgevision_cpu=chosen), goal) == (True, "float, which loses nothing")


def test_speed_is_the_median_over_rounds_taken_in_turn() -> None:
    rounds = {"float": [10.0, 30.0, 10.0], "edgevision-cpu": [5.0, 10.0, 10.0]}
    assert speed_up(rounds, "edgevision-cpu") == 2.0
    assert speed_up(rounds, "onnxruntime-u8s8") is None


def test_what_was_not_measured_is_not_judged() -> None:
    assert {v["holds"] for v in judge({"net": result()})} == {None}
