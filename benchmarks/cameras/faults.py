"""A camera that is killed, frozen and brought back again and again, and what its reader makes of it.

    python -m benchmarks.cameras.faults [--faults N] [--seed N] [--reader gstreamer|av] [--json FILE]

Faults come in random order: power cut (SIGKILL, back after a while), cable pulled (SIGSTOP, for longer or shorter than
the timeout), restart. The camera draws the time into its pictures, so a stale one shows.

The claim: silence is noticed within 1.1 times the timeout, an end within half a second; no picture after a loss was
drawn before it; pictures are back within one second and the pause of the camera being back; no thread or descriptor is
left. Exits with 1 when it does not hold.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import edgevision
from benchmarks.cameras.camera_process import ClockCamera
from benchmarks.cameras.clock_camera import read_clock
from edgevision.cli.output import finish, table
from edgevision.sources.base import BACKOFF, LIVE, STALLED
from edgevision.sources.options import SourceOptions

_TIMEOUT_S = 2.0
_OPENING_S = 1.0  # what the claim allows for, beside the pause
_OLDEST_MS = 1500.0  # of a picture right after opening: a key frame's distance, and what opening takes


@dataclass
class Loss:
    """One fault and its consequences, seconds; None where it was over before anybody noticed."""

    fault: str
    noticed_s: float | None
    back_s: float | None
    stale: int


class Watcher:
    """Reads the camera in a thread, and keeps when pictures came and what time they showed."""

    def __init__(self, uri: str, reader: str) -> None:
        self.source = edgevision.open_source(uri, timeout_s=_TIMEOUT_S, reader=reader)
        self.pictures: list[tuple[float, float]] = []  # came, drawn: seconds of the monotonic clock
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        for frame in self.source:
            self.pictures.append((time.monotonic(), read_clock(frame.image) / 1e3))
            del self.pictures[:-2000]

    def wait_for_picture(self, after: float, limit_s: float) -> float | None:
        """When the first picture came that was drawn after a moment."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            for came, drawn in list(self.pictures):
                if drawn > after:
                    return came
            time.sleep(0.005)
        return None

    def noticed(self, since: float, states: tuple[str, ...]) -> float | None:
        """When the source entered one of these states."""
        times = [c.at_ns / 1e9 for c in list(self.source.status.changes) if c.state in states and c.at_ns / 1e9 > since]
        return min(times, default=None)

    def close(self) -> None:
        self.source.close()
        self._thread.join()


def suffer(camera: ClockCamera, watcher: Watcher, dice: random.Random) -> Loss:
    """One fault, from a picture before it to a picture after it."""
    fault = dice.choice(["killed", "killed for long", "frozen for long", "frozen shortly"])
    struck = time.monotonic()
    if fault.startswith("killed"):
        camera.kill()
        time.sleep(0.3 if fault == "killed" else dice.uniform(2.0, 5.0))
        camera.start()
    else:
        camera.freeze()
        time.sleep(_TIMEOUT_S * (0.5 if fault == "frozen shortly" else dice.uniform(1.5, 2.5)))
        camera.thaw()
    repaired = time.monotonic()
    back = watcher.wait_for_picture(repaired, 40.0)
    noticed = watcher.noticed(struck, (STALLED,) if "frozen" in fault else (BACKOFF,))
    opened = watcher.noticed(noticed, (LIVE,)) if noticed is not None else None
    stale = 0
    if opened is not None:
        stale = sum(came >= opened and (came - drawn) * 1e3 > _OLDEST_MS for came, drawn in list(watcher.pictures))
    return Loss(
        fault,
        None if noticed is None else noticed - struck,
        None if back is None else back - repaired,
        stale,
    )


def broken(loss: Loss) -> list[str]:
    """What of the claim a loss breaks."""
    limits = {"frozen for long": 1.1 * _TIMEOUT_S, "killed": 0.5, "killed for long": 0.5}
    pause_s = 1.2 * (SourceOptions.first_pause_s * (8 if "long" in loss.fault else 1))
    problems = []
    if loss.fault in limits and (loss.noticed_s is None or loss.noticed_s > limits[loss.fault]):
        problems.append(f"{loss.fault}: noticed after {loss.noticed_s} s")
    opening_s = _OPENING_S + (_TIMEOUT_S if "frozen" in loss.fault else 0.0)
    if loss.back_s is None or loss.back_s > pause_s + opening_s:
        problems.append(f"{loss.fault}: back after {loss.back_s} s")
    if loss.stale:
        problems.append(f"{loss.fault}: {loss.stale} stale pictures")
    return problems


def descriptors() -> int:
    """Open descriptors of this process."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def main() -> int:
    """Strike, watch, judge."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--reader", default="gstreamer", choices=("gstreamer", "av"))
    parser.add_argument("--json", metavar="FILE")
    parser.set_defaults(quiet=False)
    args = parser.parse_args()
    dice, camera = random.Random(args.seed), ClockCamera()
    threads, files = threading.active_count(), 0
    losses: list[Loss] = []
    try:
        watcher = Watcher(camera.uri, args.reader)
        try:
            watcher.wait_for_picture(0.0, 20.0)
            files = descriptors()
            for _ in range(args.faults):
                losses.append(suffer(camera, watcher, dice))
                print(losses[-1], file=sys.stderr, flush=True)
                time.sleep(dice.uniform(0.5, 2.0))
            left_files = descriptors() - files
        finally:
            watcher.close()
    finally:
        camera.kill()
    problems = [problem for loss in losses for problem in broken(loss)]
    if left_files > 0 or threading.active_count() > threads:
        problems.append(f"left behind: {left_files} descriptors, {threading.active_count() - threads} threads")
    rows = [[loss.fault, loss.noticed_s, loss.back_s, loss.stale] for loss in losses]
    shown = [[f"{cell:.2f}" if isinstance(cell, float) else cell for cell in row] for row in rows]
    verdict = f"missed: {'; '.join(problems)}" if problems else "the claim holds here"
    text = f"{table(['fault', 'noticed s', 'back s', 'stale'], shown)}\n{verdict}"
    finish(args, {"losses": [asdict(loss) for loss in losses], "missed": problems}, text)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
