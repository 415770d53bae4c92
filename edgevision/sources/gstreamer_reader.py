"""The program that reads one camera through GStreamer. Run by whichever Python has GStreamer's bindings.

That is usually the system's, which has none of our packages: this file needs the standard library, `gi`, and
frame_channel.py beside it. With `--probe` it tells, as JSON, GStreamer's version and which of the named elements exist.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

_PULL_NS = 100_000_000
_SD_HEIGHT = 576
# GStreamer's names for limited range and a matrix; what has no name begins with their numbers.
_COLOURS = {"bt601": "nv12", "bt709": "nv12-709"}
_RANGE_AND_MATRIX = {"2:4:": "nv12", "2:3:": "nv12-709"}
_OLDEST_NS = 10_000_000_000  # a time stamp further away is no time of capture


def main(descriptor: str) -> None:
    """Read until the owner closes its end, or the camera ends."""
    outlet = _frame_channel().Outlet(int(descriptor))
    try:
        _read(outlet, outlet.task)
    except Exception as error:  # noqa: BLE001  bindings raise what they like; the owner hears of it in words
        outlet.error(str(error) or repr(error))


def _frame_channel() -> Any:
    path = Path(__file__).with_name("frame_channel.py")
    spec = importlib.util.spec_from_file_location("frame_channel", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _gst() -> Any:
    import gi

    gi.require_version("Gst", "1.0")
    from gi.repository import Gst

    Gst.init(None)
    return Gst


def _read(outlet: Any, task: dict[str, Any]) -> None:
    gst = _gst()
    pipeline = gst.parse_launch(task["pipeline"])
    for name, properties in task["properties"].items():
        element = pipeline.get_by_name(name)
        for key, value in properties.items():
            element.set_property(key, value)
    sink, bus = pipeline.get_by_name(task["sink"]), pipeline.get_bus()
    _choose_format(gst, pipeline, task, task["nv12"])
    try:
        pipeline.set_state(gst.State.PLAYING)
        opened = False
        while True:
            sample = sink.emit("try-pull-sample", _PULL_NS)
            if sample is None:
                _check_bus(gst, bus, outlet.captured)
                continue
            structure = sample.get_caps().get_structure(0)
            pixel_format = _pixel_format(structure)
            if pixel_format is None:
                _choose_format(gst, pipeline, task, False)
                continue
            if not opened:
                opened = True
                outlet.opened(_fps(structure))
            _publish(gst, outlet, pipeline, sample, pixel_format)
    finally:
        pipeline.set_state(gst.State.NULL)


def _check_bus(gst: Any, bus: Any, captured: int) -> None:
    message = bus.pop_filtered(gst.MessageType.ERROR | gst.MessageType.EOS)
    if message is None:
        return
    if message.type == gst.MessageType.EOS:
        raise EOFError(f"the stream ended after {captured} frames; is the camera still on?")
    error, detail = message.parse_error()
    reason = (detail or "").strip().rpartition("\n")[2]
    raise EOFError(f"GStreamer: {error.message} {reason} (from {message.src.get_name()})")


def _choose_format(gst: Any, pipeline: Any, task: dict[str, Any], nv12: bool) -> None:
    for name, (planes, bgr) in task["formats"].items():
        element = pipeline.get_by_name(name)
        if element is not None:
            element.set_property("caps", gst.Caps.from_string(f"video/x-raw,format={planes if nv12 else bgr}"))


def _pixel_format(structure: Any) -> str | None:
    """What frame_channel.py calls it; None for NV12 that it has no name for: full range, another matrix, odd sides."""
    if structure.get_string("format") == "BGR":
        return "bgr"
    height = structure.get_value("height")
    if structure.get_value("width") % 2 or height % 2:
        return None
    colours = structure.get_string("colorimetry")
    if colours is None:  # what GStreamer's own converter takes then
        return "nv12-709" if height > _SD_HEIGHT else "nv12"
    return _COLOURS.get(colours) or _RANGE_AND_MATRIX.get(colours[:4])


def _fps(structure: Any) -> float | None:
    found, numerator, denominator = structure.get_fraction("framerate")
    return numerator / denominator if found and numerator and denominator else None


def _publish(gst: Any, outlet: Any, pipeline: Any, sample: Any, pixel_format: str) -> None:
    structure, buffer = sample.get_caps().get_structure(0), sample.get_buffer()
    width, height = structure.get_value("width"), structure.get_value("height")
    row, rows = (3 * width, height) if pixel_format == "bgr" else (width, height * 3 // 2)
    taken = outlet.slot(row * rows)
    if taken is None:
        return
    slot, memory = taken
    pitch = (row + 3) // 4 * 4
    mapped, info = buffer.map(gst.MapFlags.READ)
    if not mapped:
        raise EOFError("GStreamer: a picture's memory cannot be read")
    try:
        data = memoryview(info.data)
        if pitch == row:
            memory[:] = data[: row * rows]
        else:
            for y in range(rows):
                memory[y * row : (y + 1) * row] = data[y * pitch : y * pitch + row]
    finally:
        buffer.unmap(info)
    outlet.publish(slot, (width, height), _captured_ns(gst, pipeline, sample), pixel_format=pixel_format)


def _captured_ns(gst: Any, pipeline: Any, sample: Any) -> int:
    """When the picture entered the pipeline, on the system's monotonic clock, which is GStreamer's for live sources."""
    now_ns = time.monotonic_ns()
    running_ns = sample.get_segment().to_running_time(gst.Format.TIME, sample.get_buffer().pts)
    if running_ns == gst.CLOCK_TIME_NONE:
        return now_ns
    entered_ns = int(pipeline.get_base_time() + running_ns)
    return entered_ns if now_ns - _OLDEST_NS < entered_ns <= now_ns else now_ns


def probe(names: list[str]) -> None:
    """Print what there is."""
    gst = _gst()
    there = [name for name in names if gst.ElementFactory.find(name) is not None]
    print(json.dumps({"version": gst.version_string(), "elements": there}))


if __name__ == "__main__":
    if sys.argv[1] == "--probe":
        probe(sys.argv[2:])
    else:
        main(sys.argv[1])
