"""A recording: every frame, in order, as fast as it is taken."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from edgevision.errors import SourceError
from edgevision.frame import Frame
from edgevision.pictures import SUFFIXES as PICTURE_SUFFIXES
from edgevision.sources.base import DEAD, LIVE, ClosesOnExit, Source, SourceStatus
from edgevision.sources.decoding import Decoder
from edgevision.sources.options import SourceOptions

SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mpg", ".mpeg", ".flv", ".h264", ".h265")
UNDERSTANDS = f"a video file, also by http(s): clip.mp4 ({' '.join(SUFFIXES)}, or any existing file)"
_CLOSE_LIMIT_S = 2.0


def claims(uri: str) -> bool:
    if "://" in uri:
        parts = urlsplit(uri)
        return parts.scheme in ("http", "https") and parts.path.lower().endswith(SUFFIXES)
    suffix = Path(uri).suffix.lower()
    # Devices are cameras; a missing file is still a video by its name, so that the error can say so.
    return suffix in SUFFIXES or (Path(uri).is_file() and suffix not in PICTURE_SUFFIXES)


def make(uri: str, status: SourceStatus, options: SourceOptions) -> Source:
    return VideoFile(uri, status, options.timeout_s)


class VideoFile(ClosesOnExit):
    """A video file. Lossless: whoever iterates sets the pace."""

    live = False

    def __init__(self, uri: str, status: SourceStatus, timeout_s: float) -> None:
        remote = "://" in uri
        if not remote:
            if not Path(uri).exists():
                raise SourceError(f"video {uri} does not exist (frame 0: expected a file, got none); check its name")
            if not Path(uri).is_file():
                raise SourceError(f"video {uri} is not a file")
            if not Path(uri).stat().st_size:
                raise SourceError(f"video {uri} is empty (frame 0: expected a video, got 0 bytes); copy it again")
        self.status = status
        # A playlist that calls itself .mp4 must not make us fetch other files or hosts.
        protocols = "http,https,tcp,tls" if remote else "file"
        self._decoder = Decoder(
            uri if remote else f"file:{uri}",
            status,
            live=False,
            timeout_s=timeout_s if remote else None,
            options={"protocol_whitelist": protocols},
        )
        self.fps = self._decoder.fps
        self.frame_count = self._decoder.frame_count
        self._reading = threading.Lock()
        self._closed = False

    def __iter__(self) -> Iterator[Frame]:
        frames = self._decoder.frames()
        self.status.enter(LIVE)
        try:
            while True:
                with self._reading:
                    frame = None if self._closed else next(frames, None)
                if frame is None:
                    break
                yield frame
        except SourceError:
            self.status.enter(DEAD)
            raise
        finally:
            self.status.end()
            self.close()

    def close(self) -> None:
        """Ends the iteration. A read still waiting for a server frees the decoder itself when it is back."""
        self._closed = True
        if self._reading.acquire(timeout=_CLOSE_LIMIT_S):
            self._decoder.close()
            self._reading.release()
