"""The program that reads one live camera through PyAV, in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgevision.errors import EdgeVisionError
from edgevision.sources.base import SourceStatus
from edgevision.sources.decoding import Decoder
from edgevision.sources.frame_channel import Outlet
from edgevision.sources.reader_process import ReaderProcess, python_command


def start_av_reader(
    location: str, uri: str, options: Mapping[str, str], container_format: str | None = None
) -> ReaderProcess:
    """Start this program.

    Args:
        location: what FFmpeg opens.
        uri: what messages call it, without a password.
        options: FFmpeg's, for the container.

    Raises:
        SourceError: it cannot be started.
    """
    task = {"location": location, "uri": uri, "container_format": container_format, "options": dict(options)}
    return ReaderProcess(python_command(__name__), task)


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
            taken = outlet.slot(3 * picture.width * picture.height)
            if taken is None:
                continue
            slot, memory = taken
            pixels = decoder.bgr(picture)
            np.frombuffer(memory, np.uint8).reshape(pixels.shape)[...] = pixels
            outlet.publish(slot, (pixels.shape[1], pixels.shape[0]), arrived_ns)
    except EdgeVisionError as error:
        outlet.error(str(error))
