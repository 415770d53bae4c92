"""The queues of a pipeline: who waits, who is dropped, and in which order things come out."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevision.frame import Frame
from edgevision.queues import Intake, Reorder, Ticket
from tests.camera_kit import numbered

pytestmark = pytest.mark.smoke
IMAGE = numbered(0)


def frame(frame_id: int, age_ms: float = 0.0) -> Frame:
    return Frame(IMAGE, frame_id, capture_time_ns=time.monotonic_ns() - int(age_ms * 1e6))


def take(intake: Intake) -> Ticket | None:
    tickets = intake.take()
    return tickets[0] if tickets else None


def test_a_recording_comes_out_as_it_went_in() -> None:
    intake = Intake([False], depth=5)
    for i in range(5):
        assert intake.put(0, frame(i))
    intake.finish(0)
    tickets = [take(intake) for _ in range(5)]
    assert [(ticket.number, ticket.frame.frame_id) for ticket in tickets if ticket] == [(i, i) for i in range(5)]
    assert take(intake) is None


def test_a_full_recording_makes_its_source_wait_until_a_lane_takes_one() -> None:
    intake = Intake([False], depth=2)
    with ThreadPoolExecutor() as pool:
        putting = pool.submit(lambda: [intake.put(0, frame(i)) for i in range(3)])
        time.sleep(0.1)
        assert not putting.done()
        assert take(intake) is not None
        assert putting.result(timeout=5) == [True] * 3
    assert not intake.dropped[0]


def test_a_live_source_never_waits_and_its_newest_frame_wins() -> None:
    intake = Intake([True], depth=9)
    for i in range(4):
        assert intake.put(0, frame(i))
    ticket = take(intake)
    assert ticket is not None
    assert ticket.frame.frame_id == 3
    assert intake.dropped[0] == {"replaced": 3}


def test_a_live_frame_too_old_is_counted_and_skipped_but_a_recording_is_never_too_old() -> None:
    intake = Intake([True, False], depth=2, max_age_ms=50)
    intake.put(0, frame(0, age_ms=80))
    intake.put(1, frame(7, age_ms=80))
    ticket = take(intake)
    assert ticket is not None
    assert (ticket.source, ticket.frame.frame_id) == (1, 7)
    intake.put(0, frame(1, age_ms=10))
    ticket = take(intake)
    assert ticket is not None
    assert (ticket.source, ticket.frame.frame_id) == (0, 1)
    assert intake.dropped == {0: {"too_old": 1}, 1: {}}


def test_sources_take_turns() -> None:
    intake = Intake([False] * 3, depth=4)
    for source in range(3):
        for i in range(4 if source else 2):
            intake.put(source, frame(i))
    assert [ticket.source for _ in range(10) if (ticket := take(intake))] == [0, 1, 2, 0, 1, 2, 1, 2, 1, 2]


@settings(deadline=None)
@given(st.lists(st.integers(3, 7), min_size=10, max_size=20))
def test_a_camera_is_not_passed_over_because_it_had_nothing_when_its_turn_was(gaps: list[int]) -> None:
    """Two frames every ten hand-outs are its share among five, however far they are apart."""
    intake = Intake([False] * 4 + [True], depth=1000)
    for source in range(4):
        for i in range(10 * len(gaps)):
            intake.put(source, frame(i))
    for _ in range(4):
        take(intake)
    for gap in gaps:
        for wait in (gap, 10 - gap):
            intake.put(4, frame(0))
            for _ in range(wait):
                take(intake)
    assert intake.dropped[4] == {}
    assert intake.handed_out[4] == 2 * len(gaps)


@pytest.mark.parametrize(("every", "least"), [(4.5, 198), (4.9, 198), (7.0, 142)])
def test_a_camera_that_offers_more_than_its_share_gets_all_of_it(every: float, least: int) -> None:
    """Of 1000 hand-outs among five sources 200, although a newer frame replaces one that waits; or all it offers."""
    intake, random = Intake([False] * 4 + [True], depth=2), Random(0)
    arrivals = iter(sorted(every * i + random.uniform(0, 3) for i in range(300)))
    arrival, offered = next(arrivals), Counter[int]()
    for now in range(1000):
        for source in range(4):
            if intake.handed_out[source] + 2 > offered[source]:
                intake.put(source, frame(0))
                offered[source] += 1
        while arrival <= now:
            intake.put(4, frame(0))
            arrival = next(arrivals)
        take(intake)
    assert least <= intake.handed_out[4] <= 201


def test_a_source_that_had_nothing_for_long_does_not_shut_the_others_out() -> None:
    intake = Intake([False, False], depth=100)
    for i in range(100):
        intake.put(0, frame(i))
    for _ in range(50):
        take(intake)
    for i in range(100):
        intake.put(1, frame(i))
    turns = [ticket.source for _ in range(20) if (ticket := take(intake))]
    assert turns.count(0) >= 8


def test_a_limit_is_exact_and_the_rest_is_counted() -> None:
    intake = Intake([False], depth=9, limit=3)
    for i in range(5):
        intake.put(0, frame(i))
    assert [ticket is not None for ticket in (take(intake) for _ in range(4))] == [True, True, True, False]
    assert not intake.put(0, frame(5))
    assert intake.dropped[0] == {"stopped": 3}
    assert intake.handed_out == {0: 3}


def test_closing_wakes_whoever_waits() -> None:
    intake = Intake([False], depth=1)
    intake.put(0, frame(0))
    with ThreadPoolExecutor() as pool:
        putting = pool.submit(intake.put, 0, frame(1))
        time.sleep(0.05)
        intake.close()
        assert putting.result(timeout=5) is False
        assert take(intake) is None
    assert intake.dropped[0] == {"stopped": 2}
    taking = Intake([True], depth=1)
    with ThreadPoolExecutor() as pool:
        taken = pool.submit(taking.take)
        time.sleep(0.05)
        taking.close()
        assert taken.result(timeout=5) == []


@settings(deadline=None)
@given(st.permutations(list(range(12))))
def test_whatever_the_order_in_things_come_out_in_theirs(numbers: list[int]) -> None:
    reorder: Reorder[int] = Reorder(window=12)
    for number in numbers:
        assert reorder.put(number, number * 10)
    reorder.finish()
    assert [reorder.take() for _ in range(13)] == [*range(0, 120, 10), None]


def test_who_is_too_far_ahead_waits_and_the_next_one_never_does() -> None:
    reorder: Reorder[str] = Reorder(window=2)
    reorder.put(1, "b")
    with ThreadPoolExecutor() as pool:
        ahead = pool.submit(reorder.put, 2, "c")
        time.sleep(0.1)
        assert not ahead.done()
        assert reorder.put(0, "a")
        assert reorder.take() == "a"
        assert ahead.result(timeout=5)
    assert [reorder.take(), reorder.take()] == ["b", "c"]


def test_aborting_wakes_whoever_waits_and_gives_nothing_more() -> None:
    reorder: Reorder[str] = Reorder(window=1)
    with ThreadPoolExecutor() as pool:
        taking, putting = pool.submit(reorder.take), pool.submit(reorder.put, 5, "far ahead")
        time.sleep(0.05)
        reorder.abort()
        assert taking.result(timeout=5) is None
        assert putting.result(timeout=5) is False
    assert not reorder.put(0, "a")


def test_many_threads_lose_nothing() -> None:
    intake, reorder = Intake([False, False], depth=3), Reorder[int](window=4)
    taken: list[int] = []

    def feed(source: int) -> None:
        for i in range(200):
            intake.put(source, frame(i))
        intake.finish(source)

    def work() -> None:
        while (ticket := take(intake)) is not None:
            reorder.put(ticket.number, ticket.number)

    def drain() -> None:
        while (number := reorder.take()) is not None:
            taken.append(number)

    workers = [threading.Thread(target=work) for _ in range(4)]
    others = [threading.Thread(target=feed, args=(source,)) for source in (0, 1)]
    drainer = threading.Thread(target=drain)
    for thread in [*workers, *others, drainer]:
        thread.start()
    for thread in [*others, *workers]:
        thread.join(20)
    reorder.finish()
    drainer.join(20)
    assert taken == list(range(400))
