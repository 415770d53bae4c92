"""CSI cameras and raw GStreamer pipelines: their URIs are reserved, their reader comes with GStreamer support."""

from __future__ import annotations

from edgevision.errors import UsageError
from edgevision.sources.base import Source, SourceStatus
from edgevision.sources.options import SourceOptions

UNDERSTANDS = "not yet: csi://0 and gst:<pipeline>, which come with GStreamer support"


def claims(uri: str) -> bool:
    return uri.startswith(("csi:", "gst:"))


def make(uri: str, status: SourceStatus, options: SourceOptions) -> Source:
    """
    Raises:
        UsageError: always.
    """
    raise UsageError(
        f"source {uri!r} needs GStreamer, which this version does not read from yet. Until then: a USB camera as "
        "v4l2:///dev/video0, or the camera's RTSP stream (gst-rtsp-server's test-launch can serve any pipeline) "
        "as rtsp://localhost:8554/test"
    )
