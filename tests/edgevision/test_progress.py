"""One line of progress, for people; nothing for machines that did not ask."""

from __future__ import annotations

import io
import time
from contextlib import redirect_stderr

import pytest

from edgevision.progress import Progress

pytestmark = pytest.mark.smoke


class Terminal(io.StringIO):
    """Keeps what is written, and claims to be a screen."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_one_line_redrawn_with_an_estimate() -> None:
    with redirect_stderr(Terminal()) as terminal, Progress("calibrate", 40) as progress:
        time.sleep(0.12)
        progress.update(10, "image 10")
        time.sleep(0.12)
        progress.update(10)
    said = terminal.getvalue()
    assert "\n" not in said
    assert "calibrate: 10/40, " in said
    assert "left" in said
    assert "image 10" in said
    assert "calibrate: 20/40" in said
    assert said.endswith("\r\x1b[K")  # the line is cleared at the end
    assert progress.done == 20


def test_work_without_steps_has_its_note_only() -> None:
    with redirect_stderr(Terminal()) as terminal, Progress("build") as progress:
        progress.update(0, "12 s so far")
    assert "build: 12 s so far" in terminal.getvalue()


def test_without_a_total_there_is_a_rate_and_no_estimate() -> None:
    with redirect_stderr(Terminal()) as terminal, Progress("run") as progress:
        time.sleep(0.12)
        progress.update(6)
    said = terminal.getvalue()
    assert "run: 6, " in said
    assert "/s" in said
    assert "left" not in said


def test_a_fast_loop_is_not_slowed_by_drawing() -> None:
    with redirect_stderr(Terminal()) as terminal, Progress("run", 10_000) as progress:
        for _ in range(10_000):
            progress.update()
    assert terminal.getvalue().count("run:") <= 50


def test_quiet_says_nothing() -> None:
    with redirect_stderr(Terminal()) as terminal, Progress("run", 2, quiet=True) as progress:
        time.sleep(0.12)
        progress.update()
    assert terminal.getvalue() == ""


def test_a_log_is_not_filled_with_redrawn_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("run", 2) as progress:
        time.sleep(0.12)
        progress.update()
    assert capsys.readouterr().err == ""
