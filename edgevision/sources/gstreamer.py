"""CSI cameras and pipelines of one's own, which only GStreamer can read."""

from __future__ import annotations

from edgevision.sources.base import Source, SourceStatus
from edgevision.sources.gstreamer_pipelines import pipeline_for
from edgevision.sources.gstreamer_python import require_gstreamer
from edgevision.sources.live import LiveSource
from edgevision.sources.options import SourceOptions

UNDERSTANDS = (
    "through GStreamer: csi://0 (?size=1280x720&fps=30&flip=0), rtp://@:5000?codec=h264, gst:<pipeline giving video>"
)


def claims(uri: str) -> bool:
    return uri.startswith(("csi:", "gst:", "rtp:"))


def make(uri: str, status: SourceStatus, options: SourceOptions) -> Source:
    """
    Raises:
        UsageError: parameters that are not understood.
        SourceError: GStreamer or one of its elements is missing, or the camera does not open.
    """
    gstreamer = require_gstreamer(status.uri)
    pipeline = pipeline_for(uri, gstreamer.elements)
    return LiveSource(lambda: gstreamer.start(pipeline, nv12=options.nv12), status, options)
