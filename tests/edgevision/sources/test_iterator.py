"""A program's own pictures as a source."""

from __future__ import annotations

import itertools

import pytest

import edgevision
from edgevision.errors import UsageError
from edgevision.frame import Frame
from edgevision.pipeline import run_pipeline
from edgevision.sources.base import ENDED
from tests.camera_kit import CountingModel, numbered


def test_pictures_are_numbered_and_none_is_lost() -> None:
    seen: list[tuple[str, int]] = []
    source = edgevision.PictureIterator([numbered(i) for i in range(20)], "robot")
    assert (source.live, source.frame_count) == (False, 20)
    report = run_pipeline(
        CountingModel(), [source], on_result=lambda frame, *_: seen.append((frame.source_id, frame.frame_id))
    )
    assert seen == [("robot", i) for i in range(20)]
    assert (report.captured, report.dropped, source.status.state) == (20, {}, ENDED)


def test_a_generator_may_go_on_for_ever() -> None:
    source = edgevision.PictureIterator((numbered(i % 4096) for i in itertools.count()), live=True)
    assert source.frame_count is None
    report = run_pipeline(CountingModel(delay_s=0.001), [source], frames=10)
    assert report.processed == 10
    assert report.captured == 10 + sum(report.dropped.values())


def test_frames_keep_their_facts() -> None:
    frame = Frame(numbered(3), 41, "elsewhere", 123456789, 1.5, "a.png")
    (found,) = edgevision.PictureIterator([frame], "here")
    assert found.picture is frame.picture
    assert (found.frame_id, found.source_id, found.capture_time_ns, found.media_time_s, found.name) == (
        41,
        "here",
        123456789,
        1.5,
        "a.png",
    )


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(UsageError, match="BGR"):
        list(edgevision.PictureIterator([numbered(0)[..., 0]]))


def test_closing_ends_it() -> None:
    source = edgevision.PictureIterator(numbered(i) for i in range(5))
    assert next(iter(source)).frame_id == 0
    source.close()
    assert list(source) == []
