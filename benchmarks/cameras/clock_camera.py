"""An RTSP camera whose pictures show the time: each says, as black and white blocks, when it was drawn.

    /usr/bin/python3 -m benchmarks.cameras.clock_camera [PORT]

Run by the Python that has GStreamer's bindings, without any other package. Prints its port, then serves until it is
killed: 720p at 30 frames/s, H.264 without reordering. `read_clock` tells the time from a picture, whichever reader
brought it.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

SIZE_WH = (1280, 720)
FPS = 30
BLOCK = 32


def clock_rows(now_ms: int) -> bytes:
    """The luma of the top of a picture: two rows of blocks of 32 pixels, 20 bits each."""
    rows = []
    for part in range(2):
        bits = [now_ms >> (20 * part + bit) & 1 for bit in range(20)]
        row = b"".join(bytes([235 if bit else 16]) * BLOCK for bit in bits)
        rows.append(row.ljust(SIZE_WH[0], b"\x80") * BLOCK)
    return b"".join(rows)


def read_clock(image: Any) -> int:
    """Milliseconds of the monotonic clock that a picture, a numpy array (h, w, 3), shows."""
    value = 0
    for part in range(2):
        middle = image[part * BLOCK + BLOCK // 2, BLOCK // 2 : 20 * BLOCK : BLOCK, 1]
        value |= sum(1 << (20 * part + bit) for bit in range(20) if middle[bit] > 127)
    return value


def main() -> None:
    """Serve."""
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer

    Gst.init(None)
    width, height = SIZE_WH
    rest = b"\x60" * (width * (height - 2 * BLOCK)) + b"\x80" * (width * height // 2)

    def draw(source: Any, stopped: threading.Event) -> None:
        due = time.monotonic()
        while not stopped.is_set():
            due = max(due + 1 / FPS, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
            data = clock_rows(time.monotonic_ns() // 1_000_000) + rest
            if source.emit("push-buffer", Gst.Buffer.new_wrapped(data)) != Gst.FlowReturn.OK:
                return

    def configure(_: Any, media: Any) -> None:
        stopped = threading.Event()
        media.connect("unprepared", lambda *_: stopped.set())
        source = media.get_element().get_by_name("source")
        threading.Thread(target=draw, args=(source, stopped), daemon=True).start()

    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(sys.argv[1] if len(sys.argv) > 1 else "0")
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(
        "( appsrc name=source is-live=true do-timestamp=true format=time max-buffers=2 leaky-type=downstream "
        f"caps=video/x-raw,format=I420,width={width},height={height},framerate={FPS}/1 "
        "! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=30 ! rtph264pay name=pay0 config-interval=1 )"
    )
    factory.set_shared(True)
    factory.connect("media-configure", configure)
    server.get_mount_points().add_factory("/cam", factory)
    if not server.attach(None):
        sys.exit("the port cannot be had")
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
