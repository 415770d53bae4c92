"""Several sources' frames in one inference: worth a short wait, never a long one, and never for everybody."""

from __future__ import annotations

import pytest

from edgevision.batch_window import BatchWindow
from edgevision.pipeline import Pipeline, run_pipeline
from tests.camera_kit import CountingModel, ListSource


def window(periods: dict[int, float], inference_s: float, until: float = 10.0) -> BatchWindow:
    """Sources that came regularly up to about a moment, and a model of that speed."""
    learnt = BatchWindow()
    for source, period in periods.items():
        for i in range(30):
            learnt.arrived(source, until - (29 - i) * period)
    learnt.inferred(inference_s)
    return learnt


def test_a_source_that_is_due_soon_is_waited_for() -> None:
    learnt = window({0: 0.04, 1: 0.04}, inference_s=0.02)
    assert learnt.until(10.035, [1]) == pytest.approx(10.044)


def test_one_that_is_due_late_is_not() -> None:
    learnt = window({0: 0.04, 1: 0.04}, inference_s=0.02)
    assert learnt.until(10.01, [1]) == 10.01


def test_no_wait_is_longer_than_half_an_inference() -> None:
    learnt = window({0: 0.04, 1: 0.2}, inference_s=0.02)
    for moment in (10.0, 10.1, 10.185, 10.195, 10.21):
        assert moment <= learnt.until(moment, [1]) <= moment + 0.01 + 1e-9


def test_a_source_that_is_late_or_unknown_holds_nobody_up() -> None:
    learnt = window({0: 0.04, 1: 0.04}, inference_s=10.0)
    assert learnt.until(10.07, [1]) == 10.07  # lost
    assert learnt.until(10.0, [2]) == 10.0  # never seen
    assert learnt.until(10.0, []) == 10.0


def test_a_pause_is_no_rate() -> None:
    learnt = window({1: 0.04}, inference_s=0.02)
    learnt.arrived(1, 20.0)
    assert learnt.until(20.035, [1]) == pytest.approx(20.044)


def test_recordings_fill_the_batches_and_keep_their_order() -> None:
    model, seen = CountingModel(delay_s=0.002, most=4), list[tuple[str, int]]()
    report = run_pipeline(
        model,
        [ListSource(40, "a"), ListSource(40, "b")],
        lanes=2,
        on_result=lambda frame, *_: seen.append((frame.source_id, frame.frame_id)),
    )
    assert report.processed == 80
    for name in "ab":
        assert [number for source, number in seen if source == name] == list(range(40))
    assert max(model.batches) <= 4
    assert sum(model.batches) > 40


def test_cameras_share_inferences_and_a_silent_one_holds_nobody_up() -> None:
    model = CountingModel(delay_s=0.02, most=8)
    cameras = [ListSource(60, f"camera{i}", live=True, pause_s=0.02) for i in range(4)]
    silent = ListSource(10**6, "silent", live=True, pause_s=1000.0)
    pipeline = Pipeline(model, [*cameras, silent], lanes=1, duration_s=4.0, frames=120)
    report = pipeline.run()
    assert report.processed == 120
    assert max(model.batches) >= 3
    assert report.duration_s < 120 * 0.02  # one at a time would take longer
