"""The log as JSON lines."""

from __future__ import annotations

import json
import logging
from datetime import datetime
from pathlib import Path

import pytest

from edgevision.cli.logs import json_log
from edgevision.errors import UsageError
from edgevision.sources import open_source

pytestmark = pytest.mark.smoke


def test_a_source_s_states_are_lines_of_json(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_text('{"message": "of an earlier run"}\n')
    with json_log(str(log)):
        list(open_source("synthetic://aerial?size=64x64&frames=2", source_id="drone"))
    earlier, *entries = map(json.loads, log.read_text().splitlines())
    assert earlier["message"] == "of an earlier run"
    assert [(entry["source_id"], entry["state"]) for entry in entries] == [("drone", "live"), ("drone", "ended")]
    assert entries[0]["level"] == "info"
    assert abs(datetime.fromisoformat(entries[0]["time"]).timestamp() - log.stat().st_mtime) < 60


def test_messages_cannot_forge_lines_and_errors_are_kept(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    with json_log(str(log)):
        try:
            raise ValueError("broken")
        except ValueError:
            logging.getLogger("edgevision.test").exception("first\n{second}")
    (entry,) = map(json.loads, log.read_text().splitlines())
    assert entry["message"] == "first\n{second}"
    assert "ValueError: broken" in entry["exception"]


def test_the_logger_is_left_as_it_was(tmp_path: Path) -> None:
    logger = logging.getLogger("edgevision")
    before = (logger.level, list(logger.handlers), logger.propagate)
    with json_log(str(tmp_path / "a.log")), json_log(None):
        assert logger.level == logging.INFO
    assert (logger.level, list(logger.handlers), logger.propagate) == before


def test_a_log_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--log .* cannot be written"), json_log(str(tmp_path / "no" / "a.log")):
        pass
