"""The program that reads one live camera through PyAV, in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevision.errors import EdgeVisionError
from edgevision.sources.base import SourceStatus
from edgevision.sources.decoding import Decoder
from edgevision.sources.frame_channel import Outlet, picture_bytes
from edgevision.sources.reader_process import ReaderProcess, python_command

# ITU-T H.273: matrix 1 is BT.709's, 5 and 6 are BT.601's; for 2, not stated, FFmpeg takes BT.601 at any size.
_MATRICES = {1: "nv12-709", 2: "nv12", 5: "nv12", 6: "nv12"}
_LIMITED = (0, 1)  # not stated, which means limited here; limited


def start_av_reader(
    location: str, uri: str, options: Mapping[str, str], container_format: str | None = None, *, nv12: bool = False
) -> ReaderProcess:
    """Start this program.

    Args:
        location: what FFmpeg opens.
        uri: what messages call it, without a password.
        options: FFmpeg's, for the container.
        nv12: hand pictures over in NV12 where the decoder's are nearly that.

    Raises:
        SourceError: it cannot be started.
    """
    task = {"location": location, "uri": uri, "container_format": container_format, "options": dict(options)}
    return ReaderProcess(python_command(__name__), {**task, "nv12": nv12})


class _Relay(SourceStatus):
    """Tells the owner what the decoder loses."""

    outlet: Outlet

    def drop(self, cause: str, note: str = "") -> None:
        self.outlet.drop(cause)
        if note:
            self.outlet.note(note)


def main(descriptor: str) -> None:
    """Read until the owner closes its end, or the camera ends."""
    outlet = Outlet(int(descriptor))
    task = outlet.task
    status = _Relay(task["uri"])
    status.outlet = outlet
    try:
        decoder = Decoder(
            task["location"],
            status,
            live=True,
            container_format=task["container_format"],
            options=task["options"],
        )
        outlet.opened(decoder.fps)
        for picture, arrived_ns in decoder.pictures():
            size_wh = picture.width, picture.height
            pixel_format = _nv12_format(picture) if task["nv12"] else "bgr"
            taken = outlet.slot(picture_bytes(size_wh, pixel_format))
            if taken is None:
                continue
            slot, memory = taken
            if pixel_format == "bgr":
                pixels = decoder.bgr(picture)
                np.frombuffer(memory, np.uint8).reshape(pixels.shape)[...] = pixels
                size_wh = pixels.shape[1], pixels.shape[0]
            else:
                _write_nv12(picture, np.frombuffer(memory, np.uint8).reshape(-1, picture.width))
            outlet.publish(slot, size_wh, arrived_ns, pixel_format=pixel_format)
    except EdgeVisionError as error:
        outlet.error(str(error))


def _nv12_format(picture: Any) -> str:
    """The name of NV12 that shows this picture's colours; `bgr` where FFmpeg has more to do than to interleave."""
    plain = picture.format.name in ("yuv420p", "nv12") and int(picture.color_range) in _LIMITED
    if not plain or picture.width % 2 or picture.height % 2 or picture.rotation:
        return "bgr"
    return _MATRICES.get(int(picture.colorspace), "bgr")


def _write_nv12(picture: Any, out: NDArray[np.uint8]) -> None:
    """The planes of a picture into (h * 3 / 2, w) uint8."""
    height, width = picture.height, picture.width

    def plane(index: int, rows: int, row_bytes: int) -> NDArray[np.uint8]:
        source = picture.planes[index]
        return np.frombuffer(source, np.uint8).reshape(-1, source.line_size)[:rows, :row_bytes]

    out[:height] = plane(0, height, width)
    if len(picture.planes) == 2:
        out[height:] = plane(1, height // 2, width)
    else:
        pairs = out[height:].reshape(height // 2, width // 2, 2)
        for i in (0, 1):
            pairs[:, :, i] = plane(1 + i, height // 2, width // 2)
