"""Which program reads a live source: GStreamer, PyAV or OpenCV, by what is there and what suits the source.

Measured with an RTSP camera of 720p at 30 frames/s, from the picture's moment to its frame: GStreamer 25 ms, PyAV 56 to
62, OpenCV 56 to 92.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping

from edgevision.errors import SourceError
from edgevision.sources.av_reader import start_av_reader
from edgevision.sources.base import SourceStatus
from edgevision.sources.cv_reader import start_cv_reader
from edgevision.sources.gstreamer_pipelines import pipeline_for
from edgevision.sources.gstreamer_python import GstreamerPython, find_gstreamer, require_gstreamer
from edgevision.sources.options import SourceOptions
from edgevision.sources.reader_process import ReaderProcess

_GSTREAMER_FIRST = ("rtsp", "rtsps")


def choose_reader(
    uri: str,
    location: str,
    status: SourceStatus,
    options: SourceOptions,
    av_options: Mapping[str, str],
    av_format: str | None = None,
) -> Callable[[], ReaderProcess]:
    """What starts a reader of `uri`; notes its name in `status.reader`.

    Args:
        location: what PyAV and OpenCV open.
        av_options, av_format: PyAV's.

    Raises:
        SourceError: the reader asked for, or any at all, is missing here.
        UsageError: parameters that GStreamer's pipeline does not have.
    """
    wanted = options.reader
    if wanted in ("auto", "gstreamer"):
        found = require_gstreamer(f"reader=gstreamer for {status.uri}") if wanted == "gstreamer" else _suited(uri)
        if found is not None:
            try:
                pipeline = pipeline_for(uri, found.elements)
            except SourceError:
                if wanted == "gstreamer":
                    raise
            else:
                status.reader = "gstreamer"
                return lambda: found.start(pipeline, nv12=options.nv12)
    if wanted in ("auto", "av") and (wanted == "av" or importlib.util.find_spec("av") is not None):
        status.reader = "av"
        return lambda: start_av_reader(location, status.uri, av_options, av_format, nv12=options.nv12)
    status.reader = "opencv"
    return lambda: start_cv_reader(location)


def _suited(uri: str) -> GstreamerPython | None:
    """GStreamer, where it is there and the better choice."""
    scheme = uri.partition(":")[0]
    if scheme not in (*_GSTREAMER_FIRST, "v4l2"):
        return None
    found = find_gstreamer()
    if found is None or scheme in _GSTREAMER_FIRST:
        return found
    return found if "nvvidconv" in found.elements else None  # a Jetson: its hardware decodes a camera's pictures
