"""A camera on the network: GStreamer's RTSP server with a live test picture, 720p at 30 frames/s, on a free port.

Run by the system's Python, which alone has GStreamer's bindings. Prints its port, then serves until it is killed; with
a port as argument it listens there.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(sys.argv[1] if len(sys.argv) > 1 else "0")
camera = GstRtspServer.RTSPMediaFactory()
camera.set_launch(
    "( videotestsrc is-live=true pattern=ball ! video/x-raw,width=1280,height=720,framerate=30/1 "
    "! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=30 ! rtph264pay name=pay0 )"
)
camera.set_shared(True)
server.get_mount_points().add_factory("/cam", camera)
server.attach(None)
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
