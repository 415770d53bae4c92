"""GStreamer pipelines for every kind of live source, on a PC and on a Jetson, from the elements that are there.

Hardware is chosen by looking for its elements, never by the name of the board. Sources: GStreamer's plugin reference;
NVIDIA's Accelerated GStreamer guide (nvarguscamerasrc, nvv4l2decoder, nvvidconv).
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from edgevision.errors import SourceError, UsageError

SINK, FORMAT, HARDWARE_FORMAT = "edgevision_sink", "edgevision_format", "edgevision_hardware_format"
_APPSINK = f"appsink name={SINK} max-buffers=1 drop=true sync=false"
_DEFAULT_FPS = 30

PACKAGES = {
    "appsink": "gstreamer1.0-plugins-base",
    "videoconvert": "gstreamer1.0-plugins-base",
    "decodebin": "gstreamer1.0-plugins-base",
    "rtspsrc": "gstreamer1.0-plugins-good",
    "udpsrc": "gstreamer1.0-plugins-good",
    "rtph264depay": "gstreamer1.0-plugins-good",
    "rtph265depay": "gstreamer1.0-plugins-good",
    "souphttpsrc": "gstreamer1.0-plugins-good",
    "v4l2src": "gstreamer1.0-plugins-good",
    "jpegdec": "gstreamer1.0-plugins-good",
    "avdec_h264": "gstreamer1.0-libav",
    "h264parse": "gstreamer1.0-plugins-bad",
    "nvarguscamerasrc": "nvidia-l4t-gstreamer",
    "nvv4l2decoder": "nvidia-l4t-gstreamer",
    "nvvidconv": "nvidia-l4t-gstreamer",
    "nvjpegdec": "nvidia-l4t-gstreamer",
}
"""Every element that a pipeline here may use, and the Debian package that has it."""


@dataclass(frozen=True)
class GstreamerPipeline:
    """What the reader is told.

    Attributes:
        text: as gst-launch-1.0 takes it, ending in an appsink named `SINK` that gives BGR; the caps filters named
            `FORMAT` and, behind a hardware converter, `HARDWARE_FORMAT` may be told otherwise.
        properties: element's name -> its properties that come from the user: never part of the text, where a quote or
            an exclamation mark in an address would be more than an address.
    """

    text: str
    properties: Mapping[str, Mapping[str, str | int]] = field(default_factory=dict)


def pipeline_for(uri: str, elements: Set[str]) -> GstreamerPipeline:
    """The pipeline that reads a live source with the least delay.

    Args:
        uri: csi://, rtsp(s)://, udp://, rtp://, http(s)://, v4l2:// or a device, gst:<pipeline>.
        elements: those of `PACKAGES` that this machine has.

    Raises:
        UsageError: the URI's parameters are not understood.
        SourceError: an element is missing; names its package.
    """
    scheme = uri.partition(":")[0]
    build = {
        "csi": _csi,
        "rtsp": _rtsp,
        "rtsps": _rtsp,
        "udp": _udp,
        "rtp": _rtp,
        "http": _http,
        "https": _http,
        "v4l2": _v4l2,
    }
    if scheme == "gst":
        return _own(uri.removeprefix("gst:").strip(), elements)
    return build[scheme](uri, elements)


def _need(elements: Set[str], *names: str) -> None:
    missing = [name for name in names if name not in elements]
    if missing:
        packages = " ".join(dict.fromkeys(PACKAGES[name] for name in missing))
        raise SourceError(f"GStreamer lacks {', '.join(missing)}; run: sudo apt-get install {packages}")


def _to_bgr(elements: Set[str]) -> str:
    """From whatever a decoder gives to BGR in main memory; on a Jetson by its converter as far as that goes."""
    _need(elements, "videoconvert", "appsink")
    hardware = f"nvvidconv ! {_filter(HARDWARE_FORMAT, 'BGRx')} ! " if "nvvidconv" in elements else ""
    return f"{hardware}videoconvert n-threads=1 ! {_filter(FORMAT, 'BGR')} ! {_APPSINK}"


def _filter(name: str, pixel_format: str) -> str:
    return f"capsfilter name={name} caps=video/x-raw,format={pixel_format}"


def _csi(uri: str, elements: Set[str]) -> GstreamerPipeline:
    _need(elements, "nvarguscamerasrc", "nvvidconv")
    parts = urlsplit(uri)
    given = _parameters(uri, parts.query, {"size", "fps", "flip", "exposure_us", "gain"})
    if not parts.netloc.isdecimal():
        raise UsageError(f"a CSI camera goes by its number: csi://0?size=1280x720&fps=30, got {uri!r}")
    width, height = _size(uri, given.get("size", "1280x720"))
    properties: dict[str, str | int] = {"sensor-id": int(parts.netloc)}
    if "exposure_us" in given:
        exposure_ns = 1000 * _number(uri, "exposure_us", given["exposure_us"])
        properties["exposuretimerange"] = f"{exposure_ns} {exposure_ns}"
    if "gain" in given:
        gain = _number(uri, "gain", given["gain"])
        properties["gainrange"] = f"{gain} {gain}"
    fps, flip = _number(uri, "fps", given.get("fps", str(_DEFAULT_FPS))), _number(uri, "flip", given.get("flip", "0"))
    caps = f"video/x-raw(memory:NVMM),format=NV12,width={width},height={height},framerate={fps}/1"
    convert = _to_bgr(elements).replace("nvvidconv", f"nvvidconv flip-method={flip}", 1)
    return GstreamerPipeline(f"nvarguscamerasrc name=source ! {caps} ! {convert}", {"source": properties})


def _rtsp(uri: str, elements: Set[str]) -> GstreamerPipeline:
    _need(elements, "rtspsrc", "decodebin")
    text = f"rtspsrc name=source latency=0 protocols=tcp ! decodebin ! {_to_bgr(elements)}"
    return GstreamerPipeline(text, {"source": {"location": uri}})


def _udp(uri: str, elements: Set[str]) -> GstreamerPipeline:
    _need(elements, "udpsrc", "decodebin")
    address = uri.replace("//@", "//", 1) if "//@:" not in uri else uri.replace("//@:", "//0.0.0.0:", 1)
    return GstreamerPipeline(f"udpsrc name=source ! decodebin ! {_to_bgr(elements)}", {"source": {"uri": address}})


def _rtp(uri: str, elements: Set[str]) -> GstreamerPipeline:
    parts = urlsplit(uri)
    codec = _parameters(uri, parts.query, {"codec"}).get("codec", "h264")
    if codec not in ("h264", "h265") or parts.port is None:
        raise UsageError(f"RTP without a session description: rtp://@:5000?codec=h264 (or h265), got {uri!r}")
    _need(elements, "udpsrc", f"rtp{codec}depay", "decodebin")
    caps = f"application/x-rtp,media=video,clock-rate=90000,encoding-name={codec.upper()}"
    text = f"udpsrc name=source ! {caps} ! rtp{codec}depay ! decodebin ! {_to_bgr(elements)}"
    address = parts.hostname or "0.0.0.0"  # to receive from anywhere is what the user asked for
    return GstreamerPipeline(text, {"source": {"address": address, "port": parts.port}})


def _http(uri: str, elements: Set[str]) -> GstreamerPipeline:
    _need(elements, "souphttpsrc", "decodebin")
    text = f"souphttpsrc name=source is-live=true ! decodebin ! {_to_bgr(elements)}"
    return GstreamerPipeline(text, {"source": {"location": uri}})


def _v4l2(uri: str, elements: Set[str]) -> GstreamerPipeline:
    _need(elements, "v4l2src")
    parts = urlsplit(uri)
    given = _parameters(uri, parts.query, {"size", "fps", "format", "exposure_us", "gain"})
    compressed = given.get("format", "raw") in ("mjpeg", "mjpg", "jpeg")
    caps = ["image/jpeg" if compressed else "video/x-raw"]
    if not compressed and given.get("format", "raw") != "raw":
        pixel_format = given["format"].upper()
        if not pixel_format.isalnum():
            raise UsageError(f"{uri!r}: format is mjpeg, raw, or a pixel format such as yuy2")
        caps.append(f"format={'YUY2' if pixel_format == 'YUYV422' else pixel_format}")
    if "size" in given:
        width, height = _size(uri, given["size"])
        caps += [f"width={width}", f"height={height}"]
    if "fps" in given:
        caps.append(f"framerate={_number(uri, 'fps', given['fps'])}/1")
    decode = ""
    if compressed:
        decoder = "nvjpegdec" if "nvjpegdec" in elements else "jpegdec"
        _need(elements, decoder)
        decode = f"{decoder} ! "
    properties: dict[str, str | int] = {"device": parts.path}
    controls = []
    if "exposure_us" in given:  # V4L2 counts in 100 microseconds; 1 is its manual mode
        steps = max(1, _number(uri, "exposure_us", given["exposure_us"]) // 100)
        controls += ["auto_exposure=1", f"exposure_time_absolute={steps}"]
    if "gain" in given:
        controls.append(f"gain={_number(uri, 'gain', given['gain'])}")
    text = f"v4l2src name=source ! {','.join(caps)} ! {decode}{_to_bgr(elements)}"
    if controls:
        text = text.replace("v4l2src name=source", f'v4l2src name=source extra-controls="c,{",".join(controls)}"')
    return GstreamerPipeline(text, {"source": properties})


def _own(text: str, elements: Set[str]) -> GstreamerPipeline:
    if not text:
        raise UsageError("gst: needs a pipeline, such as: gst:videotestsrc is-live=true ! video/x-raw,width=640")
    if "appsink" in text:
        raise UsageError("gst: leave the appsink out; the pipeline ends where its pictures come out")
    return GstreamerPipeline(f"{text} ! {_to_bgr(elements)}")


def _parameters(uri: str, query: str, known: Set[str]) -> dict[str, str]:
    given = dict(parse_qsl(query))
    unknown = set(given) - known
    if unknown:
        raise UsageError(f"{uri!r}: {', '.join(sorted(unknown))} is not known; there are {', '.join(sorted(known))}")
    return given


def _size(uri: str, text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return _number(uri, "size", width), _number(uri, "size", height)


def _number(uri: str, name: str, text: str) -> int:
    if not (text.isdecimal() and len(text) < 8):
        raise UsageError(f"{uri!r}: {name} is a whole number (size: WIDTHxHEIGHT), got {text!r}")
    return int(text)
