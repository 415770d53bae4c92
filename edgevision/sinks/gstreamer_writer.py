"""The program that shows pictures through GStreamer: in a window, or as an RTSP server. Run by the system's Python.

Pictures come over standard input, each a header (width, height, nanoseconds since the first) and BGR rows without gaps.
Says `ready` on standard output once it serves, else why not. Needs the standard library and `gi` only.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import threading
from typing import Any

HEADER = struct.Struct("<IIQ")
_ENCODERS = (
    ("nvv4l2h264enc", "nvvidconv ! nvv4l2h264enc insert-sps-pps=1 idrinterval=30 maxperf-enable=1 ! h264parse"),
    ("x264enc", "videoconvert n-threads=1 ! x264enc tune=zerolatency speed-preset=superfast key-int-max=30"),
    ("openh264enc", "videoconvert n-threads=1 ! openh264enc gop-size=30 ! h264parse"),
)


class Newest:
    """The newest picture, for however many readers there are."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._picture: tuple[int, int, bytes] | None = None
        self._number, self._ended = 0, False

    def put(self, picture: tuple[int, int, bytes] | None) -> None:
        """A newer one; None: there will be no more."""
        with self._changed:
            self._picture, self._number, self._ended = picture or self._picture, self._number + 1, picture is None
            self._changed.notify_all()

    def after(self, number: int) -> tuple[int, tuple[int, int, bytes]] | None:
        """A picture newer than `number`, waited for; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or (self._picture is not None and self._number > number))
            return None if self._ended or self._picture is None else (self._number, self._picture)


def feed(gst: Any, source: Any, newest: Newest, stopped: threading.Event) -> None:
    """Push pictures into an appsrc until it or the input ends. Stamped by the pipeline's clock (do-timestamp)."""
    number, size = 0, (0, 0)
    while not stopped.is_set():
        found = newest.after(number)
        if found is None:
            source.emit("end-of-stream")
            return
        number, (width, height, data) = found
        if (width, height) != size:
            size = (width, height)
            source.set_property(
                "caps", gst.Caps.from_string(f"video/x-raw,format=BGR,width={width},height={height},framerate=0/1")
            )
        if width % 4:  # GStreamer's rows of BGR end on multiples of four bytes
            row, gap = 3 * width, bytes(-3 * width % 4)
            data = b"".join(data[y * row : (y + 1) * row] + gap for y in range(height))
        if source.emit("push-buffer", gst.Buffer.new_wrapped(data)) != gst.FlowReturn.OK:
            return


def read_pictures(newest: Newest) -> None:
    """Standard input to its end."""
    stream = sys.stdin.buffer
    while len(header := stream.read(HEADER.size)) == HEADER.size:
        width, height, _ = HEADER.unpack(header)
        data = stream.read(3 * width * height)
        if len(data) < 3 * width * height:
            break
        newest.put((width, height, data))
    newest.put(None)


def show_window(gst: Any, newest: Newest) -> None:
    """Pictures in a window until the input ends or the window is closed."""
    pipeline = gst.parse_launch(
        "appsrc name=source is-live=true do-timestamp=true format=time max-buffers=1 leaky-type=downstream "
        "! videoconvert n-threads=1 ! autovideosink sync=false"
    )
    bus, wanted = pipeline.get_bus(), gst.MessageType.ERROR | gst.MessageType.EOS
    if pipeline.set_state(gst.State.PLAYING) == gst.StateChangeReturn.FAILURE:
        message = bus.timed_pop_filtered(gst.SECOND, gst.MessageType.ERROR)
        reason = message.parse_error()[0].message if message else "no reason was given"
        print(reason, flush=True)
        return
    print("ready", flush=True)
    stopped = threading.Event()
    threading.Thread(target=feed, args=(gst, pipeline.get_by_name("source"), newest, stopped), daemon=True).start()
    bus.timed_pop_filtered(gst.CLOCK_TIME_NONE, wanted)
    stopped.set()
    pipeline.set_state(gst.State.NULL)


def serve_rtsp(gst: Any, newest: Newest, host: str, port: int, path: str) -> None:
    """An RTSP server; each client has a pipeline of its own, shared by all clients of the path."""
    import gi

    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, GstRtspServer

    encoder = next((text for name, text in _ENCODERS if gst.ElementFactory.find(name)), None)
    if encoder is None:
        print("no H.264 encoder: sudo apt-get install gstreamer1.0-plugins-ugly", flush=True)
        return
    server = GstRtspServer.RTSPServer()
    server.set_address(host)
    server.set_service(str(port))
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(
        "( appsrc name=source is-live=true do-timestamp=true format=time max-buffers=2 leaky-type=downstream "
        f"! {encoder} ! rtph264pay name=pay0 config-interval=1 )"
    )
    factory.set_shared(True)

    def configure(_: Any, media: Any) -> None:
        stopped = threading.Event()
        media.connect("unprepared", lambda *_: stopped.set())
        source = media.get_element().get_by_name("source")
        threading.Thread(target=feed, args=(gst, source, newest, stopped), daemon=True).start()

    factory.connect("media-configure", configure)
    server.get_mount_points().add_factory(path, factory)
    if not server.attach(None):
        print(f"port {port} of {host} cannot be had", flush=True)
        return
    print(f"ready {server.get_bound_port()}", flush=True)
    GLib.MainLoop().run()


def main(task: dict[str, Any]) -> None:
    """Show or serve until standard input ends."""
    try:
        import gi

        gi.require_version("Gst", "1.0")
        from gi.repository import Gst

        Gst.init(None)
        newest = Newest()
        threading.Thread(target=_until_end, args=(newest,), daemon=True).start()
        if task["kind"] == "window":
            show_window(Gst, newest)
        else:
            serve_rtsp(Gst, newest, task["host"], task["port"], task["path"])
    except Exception as error:  # noqa: BLE001  the owner reads it from our output
        print(error, flush=True)
    os._exit(0)  # the other thread holds standard input: an orderly end of the interpreter would wait for it


def _until_end(newest: Newest) -> None:
    read_pictures(newest)
    threading.Event().wait(0.2)  # for what the pipelines still hold
    os._exit(0)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
