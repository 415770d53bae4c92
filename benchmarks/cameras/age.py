"""How old a picture is when a program has it: our readers beside what people write with OpenCV and PyAV.

    python -m benchmarks.cameras.age [--seconds S | --soak MINUTES] [--json FILE]

One RTSP camera, 720p at 30 frames/s, draws the time into its pictures; all readers watch it, one after the other, in
one run. The age includes drawing, encoding, transport, decoding and conversion to BGR. `slow` readers take 100 ms for
each picture, as a detector would; their age must not grow: the last third of a run beside the first.

With `--soak` only ours are read, by the slow consumer, for that long each: the last minute beside the first.

The claim: medians of at most 75 ms through PyAV and 45 ms through GStreamer, and with the slow consumer a p99 in the
last part within 20 % of the first's. Exits with 1 when it does not hold.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2

import edgevision
from benchmarks.cameras.camera_process import ClockCamera
from benchmarks.cameras.clock_camera import read_clock
from edgevision.cli.output import finish, table

_WARM_UP_S = 2.0
_GOALS_MS = {"edgevision, gstreamer": 45.0, "edgevision, av": 75.0}
_MOST_GROWTH = 1.2
_SLOW = ", slow consumer"


def ours(reader: str) -> Callable[[str], Iterator[Any]]:
    """Pictures through edgevision."""

    def read(uri: str) -> Iterator[Any]:
        with edgevision.open_source(uri, reader=reader) as source:
            for frame in source:
                yield frame.image

    return read


def opencv(uri: str) -> Iterator[Any]:
    """What everybody writes first."""
    capture = cv2.VideoCapture(uri)
    while True:
        found, image = capture.read()
        if not found:
            return
        yield image


def opencv_thread(uri: str) -> Iterator[Any]:
    """What everybody writes next: low delay, one thread, and a thread that keeps the newest picture."""
    capture = cv2.VideoCapture(uri, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    newest: list[Any] = []
    changed, stop = threading.Condition(), threading.Event()

    def read() -> None:
        while not stop.is_set():
            found, image = capture.read()
            with changed:
                newest[:] = [image] if found else []
                changed.notify()

    thread = threading.Thread(target=read)
    thread.start()
    try:
        while True:
            with changed:
                changed.wait_for(lambda: bool(newest), 5.0)
                if not newest:
                    return
                image = newest.pop()
            yield image
    finally:
        stop.set()
        thread.join()


def pyav(uri: str) -> Iterator[Any]:
    """PyAV as its documentation shows it."""
    import av

    with av.open(uri, options={"rtsp_transport": "tcp"}) as container:
        for picture in container.decode(video=0):
            yield picture.to_ndarray(format="bgr24")


_READERS: dict[str, Callable[[str], Iterator[Any]]] = {
    "edgevision, gstreamer": ours("gstreamer"),
    "edgevision, av": ours("av"),
    "edgevision, opencv": ours("opencv"),
    "opencv": opencv,
    "opencv, newest-frame thread": opencv_thread,
    "pyav": pyav,
}


def watch(
    read: Callable[[str], Iterator[Any]], uri: str, seconds: float, pause_s: float, part_s: float
) -> dict[str, float]:
    """Ages of the pictures after a warm-up, milliseconds; `part_s`: length of the first and the last part."""
    asked = time.monotonic()
    ages: list[tuple[float, float]] = []
    first_s = start = 0.0
    for image in read(uri):
        now = time.monotonic()
        first_s = first_s or now - asked
        start = start or now + _WARM_UP_S
        if now > start:
            ages.append((now, now * 1e3 - read_clock(image)))
        if now > start + seconds:
            break
        if pause_s:
            time.sleep(pause_s)
    values = sorted(age for _, age in ages)
    early = sorted(age for at, age in ages if at < start + part_s)
    late = sorted(age for at, age in ages if at > start + seconds - part_s)
    return {
        "first_s": first_s,
        "fps": len(ages) / seconds,
        "p50": statistics.median(values),
        "p99": values[int(0.99 * len(values))],
        "early_p99": early[int(0.99 * len(early))],
        "late_p99": late[int(0.99 * len(late))],
    }


def main() -> int:
    """Measure, print and judge."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=12.0, help="per reader, after a warm-up")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="per reader: ours only, with the slow consumer")
    parser.add_argument("--json", metavar="FILE")
    parser.set_defaults(quiet=False)
    args = parser.parse_args()
    seconds = 60.0 * args.soak if args.soak else args.seconds
    part_s = min(60.0, seconds / 3)
    readers = {name: _READERS[name] for name in _GOALS_MS} if args.soak else _READERS
    camera = ClockCamera()
    found: dict[str, dict[str, float]] = {}
    try:
        for pause_s, kind in ((0.0, ""), (0.1, _SLOW))[bool(args.soak) :]:
            for name, read in readers.items():
                found[name + kind] = watch(read, camera.uri, seconds, pause_s, part_s)
                print(f"{name}{kind}: median {found[name + kind]['p50']:.0f} ms", file=sys.stderr, flush=True)
                time.sleep(1.0)
    finally:
        camera.kill()
    missed = [name for name, goal_ms in _GOALS_MS.items() if name in found and found[name]["p50"] > goal_ms]
    slow = {name: found[name] for name in (each + _SLOW for each in _GOALS_MS)}
    missed += [name for name, ages in slow.items() if ages["late_p99"] > _MOST_GROWTH * ages["early_p99"]]
    part = f"{part_s:.0f} s"
    header = ["reader", "first picture s", "pictures/s", "age p50 ms", "p99", f"p99 first {part}", f"p99 last {part}"]
    rows = [[name, *(f"{value:.1f}" for value in figures.values())] for name, figures in found.items()]
    verdict = f"missed: {', '.join(missed)}" if missed else "the claim holds here"
    finish(args, {"readers": found, "missed": missed}, f"{table(header, rows)}\n{verdict}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
