"""Sinks for results: annotated video, pictures, JSON lines, COCO results; opened by URI."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from edgevision.errors import UsageError
from edgevision.frame import Frame
from edgevision.redaction import without_secrets
from edgevision.registry import find_kind
from edgevision.results import Result
from edgevision.sinks.base import Sink
from edgevision.sources.base import Source

__all__ = ["Sink", "open_sink"]

_PLACEHOLDER = "{source}"


def open_sink(uri: str | Path, sources: Sequence[Source] = ()) -> Sink:
    """Open a sink by its URI; `edgevision run --help` lists the forms. An existing file is overwritten.

    `{source}` in the URI stands for the source's name: each source then gets an output of its own. Without it, only a
    kind that can tell sources apart (JSON lines) takes more than one.

    Args:
        sources: those whose results will be written; they tell a video its frame rate.

    Raises:
        UsageError: the URI is not understood, or has no `{source}` where it needs one.
        SinkError: the output cannot be written.
    """
    uri = str(uri).removeprefix("file://")
    kind = find_kind(sys.modules[__name__], uri)
    if any(Path(uri).absolute() == Path(source.status.uri).absolute() for source in sources):
        raise UsageError(f"sink {uri!r} would overwrite the source of that name; give it another name")
    if _PLACEHOLDER in uri and sources:
        return _named(_PerSource(lambda name, source: kind.make(uri.replace(_PLACEHOLDER, name), source), sources), uri)
    if len(sources) > 1 and kind.ONE_SOURCE:
        path = Path(uri)
        raise UsageError(
            f"sink {uri!r} takes one source, got {len(sources)}; put {_PLACEHOLDER} into its name and each source "
            f"writes its own: {path.with_name(f'{path.stem}_{_PLACEHOLDER}{path.suffix}')}"
        )
    sink: Sink = kind.make(uri, sources[0] if sources else None)
    return _named(sink, uri)


def _named(sink: Sink, uri: str) -> Sink:
    """Reports call a sink by its URI, without what is secret in it."""
    sink.name = without_secrets(uri).partition("?")[0]
    return sink


class _PerSource:
    """Hands each frame to the output of its source; one that joins later gets its output with its first frame."""

    name = ""

    def __init__(self, make: Callable[[str, Source | None], Sink], sources: Sequence[Source]) -> None:
        self._make = make
        self._outputs: dict[str, Sink] = {}
        self._used: Sink | None = None  # the output whose call is under way
        with ExitStack() as opened:
            for source in sources:
                self._outputs[source.status.source_id] = output = make(source.status.source_id, source)
                opened.callback(output.close)
            opened.pop_all()
        self.NEWEST = any(getattr(output, "NEWEST", False) for output in self._outputs.values())

    def write(self, frame: Frame, result: Result, timing_ms: Mapping[str, float]) -> None:
        output = self._outputs.get(frame.source_id)
        if output is None:
            output = self._outputs[frame.source_id] = self._make(frame.source_id, None)
        self._used = output
        output.write(frame, result, timing_ms)

    def forget(self, source_id: str) -> None:
        self._finish(source_id)

    def abandon(self) -> None:
        """One output hangs: finish the others."""
        used = self._used
        abandon: Callable[[], None] | None = getattr(used, "abandon", None)
        if abandon is not None:
            abandon()
        self._close([name for name, output in list(self._outputs.items()) if output is not used])

    def close(self) -> None:
        self._close(list(self._outputs))

    def _close(self, names: Sequence[str]) -> None:
        with ExitStack() as closing:  # all of them, even when one fails
            for name in names:
                closing.callback(self._finish, name)

    def _finish(self, name: str) -> None:
        """Once, whoever else closes."""
        output = self._outputs.pop(name, None)
        if output is not None:
            self._used = output
            output.close()
