"""Sources of frames: files, cameras and network streams, opened by URI."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from edgevision.redaction import without_secrets
from edgevision.registry import find_kind
from edgevision.sources.base import Source, SourceStatus
from edgevision.sources.options import SourceOptions

__all__ = ["Source", "SourceStatus", "open_source", "open_sources"]


def open_source(
    uri: str | Path,
    *,
    source_id: str = "",
    timeout_s: float = SourceOptions.timeout_s,
    give_up_s: float | None = None,
    every_frame: bool = False,
    reader: str = "auto",
    nv12: bool = False,
) -> Source:
    """Open a source by its URI; `edgevision run --help` lists the forms.

    Args:
        uri: path, pattern or URL.
        source_id: name carried by every frame; made from the URI when empty.
        timeout_s: how long a camera or network stream may take to open, and to deliver its next frame, before it is
            opened anew.
        give_up_s: without a frame for this long a camera is dead; None: it is waited for without end.
        every_frame: of a live source, all frames as long as memory for them lasts, not the newest only.
        reader: what reads a live source: auto, gstreamer, av or opencv.
        nv12: a live source's frames may come in NV12 (`Frame.pixel_format`), half the bytes, less work: for models on
            a GPU, which take it as it is. `Frame.image` is BGR all the same.

    Raises:
        UsageError: the URI is not understood.
        SourceError: the source cannot be opened.
    """
    uri = str(uri).removeprefix("file://")
    options = SourceOptions(timeout_s=timeout_s, give_up_s=give_up_s, every_frame=every_frame, reader=reader, nv12=nv12)
    status = SourceStatus(without_secrets(uri), source_id or name_of(uri))
    source: Source = find_kind(sys.modules[__name__], uri).make(uri, status, options)
    return source


def open_sources(
    uris: Sequence[str],
    *,
    timeout_s: float = SourceOptions.timeout_s,
    give_up_s: float | None = None,
    every_frame: bool = False,
    reader: str = "auto",
    nv12: bool = False,
) -> list[Source]:
    """Open several sources under different names; when one fails, those already open are closed again.

    Arguments are those of `open_source`.

    Raises:
        UsageError: a URI is not understood.
        SourceError: a source cannot be opened.
    """
    names: list[str] = []
    for uri in uris:
        name = name_of(uri)
        taken = sum(other == name or other.startswith(f"{name}-") for other in names)
        names.append(f"{name}-{taken + 1}" if name in names else name)
    with ExitStack() as stack:
        sources = [
            stack.enter_context(
                open_source(
                    uri,
                    source_id=name,
                    timeout_s=timeout_s,
                    give_up_s=give_up_s,
                    every_frame=every_frame,
                    reader=reader,
                    nv12=nv12,
                )
            )
            for uri, name in zip(uris, names, strict=True)
        ]
        stack.pop_all()
    return sources


def name_of(uri: str) -> str:
    """A short name for a source, fit for file names: the file's stem, the host, the camera's number."""
    scheme, separator, rest = uri.rpartition("://")
    if separator:
        rest = rest.rpartition("@")[2].partition("?")[0]
        return _plain(rest if scheme not in ("http", "https") else rest.partition("/")[0]) or scheme
    if uri.isdecimal():
        return f"camera{uri}"
    path = Path(uri)
    return _plain(path.parent.name if set("*?[") & set(path.name) else path.stem) or "source"


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-")
