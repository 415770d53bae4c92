"""Network cameras and streams: RTSP, MPEG-TS over UDP or TCP, HTTP."""

from __future__ import annotations

from urllib.parse import urlsplit

from edgevision.sources.base import Source, SourceStatus
from edgevision.sources.live import LiveSource
from edgevision.sources.options import SourceOptions
from edgevision.sources.readers import choose_reader
from edgevision.sources.video import claims as is_recording

UNDERSTANDS = (
    "a network stream: rtsp://user:password@host/path rtsps:// udp://@:5000 tcp://host:port http(s)://host/stream"
)
_SCHEMES = ("rtsp", "rtsps", "udp", "tcp", "http", "https")
_OPTIONS = {
    "fflags": "nobuffer",
    "rtsp_transport": "tcp",
    "overrun_nonfatal": "1",
    # A remote playlist must not read local files.
    "protocol_whitelist": "rtsp,rtsps,rtp,udp,tcp,tls,http,https,httpproxy,crypto",
}


def claims(uri: str) -> bool:
    return "://" in uri and urlsplit(uri).scheme in _SCHEMES and not is_recording(uri)


def make(uri: str, status: SourceStatus, options: SourceOptions) -> Source:
    return LiveSource(choose_reader(uri, uri, status, options, _OPTIONS), status, options)
