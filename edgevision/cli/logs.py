"""What happens during a run, line by line as JSON, for journals and log collectors."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from edgevision.errors import UsageError

_FACTS = ("source_id", "state", "reason")


class JsonFormatter(logging.Formatter):
    """`time` (ISO 8601, UTC), `level`, `logger`, `message`; of a source's change of state also `source_id`, `state`,
    `reason`."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: getattr(record, name) for name in _FACTS if hasattr(record, name)},
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


@contextmanager
def json_log(target: str | None) -> Iterator[None]:
    """Send edgevision's records from INFO on to a file, appended to, or to standard error (`-`); None: nothing.

    Raises:
        UsageError: the file cannot be written.
    """
    if target is None:
        yield
        return
    try:
        handler = logging.StreamHandler(sys.stderr) if target == "-" else logging.FileHandler(Path(target), delay=False)
    except OSError as error:
        raise UsageError(f"--log {target} cannot be written: {error.strerror}") from error
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("edgevision")
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = propagate and target != "-"
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
        handler.close()
