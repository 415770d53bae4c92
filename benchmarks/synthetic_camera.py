"""The synthetic camera on one core: frames per second with and without class map, and the time to build a scene.

The goal at 1280x720 is 30 frames/s without and 20 frames/s with class map.
"""

from __future__ import annotations

import time

import cv2
import numpy as np

from edgevision.synthetic import AerialScene

SEEDS = (1, 2, 3, 4)
FRAMES = range(0, 1500, 50)


def _measure(size_wh: tuple[int, int]) -> tuple[float, float, float]:
    """Medians in seconds: building a scene, a frame, a frame with class map (the last two in turn)."""
    build, plain, labelled = [], [], []
    for seed in SEEDS:
        start = time.perf_counter()
        scene = AerialScene(seed, size_wh)
        build.append(time.perf_counter() - start)
        for index in FRAMES:
            start = time.perf_counter()
            scene.render(index)
            between = time.perf_counter()
            scene.render(index, with_class_map=True)
            labelled.append(time.perf_counter() - between)
            plain.append(between - start)
    return float(np.median(build)), float(np.median(plain)), float(np.median(labelled))


def main() -> None:
    """Print one line for each size."""
    cv2.setNumThreads(1)
    print(f"{'size':>10}  {'build':>8}  {'frames/s':>8}  {'with class map':>14}  (one core, medians)")
    for size_wh in ((1280, 720), (640, 360), (320, 180)):
        build_s, plain_s, labelled_s = _measure(size_wh)
        name = f"{size_wh[0]}x{size_wh[1]}"
        print(f"{name:>10}  {build_s:6.2f} s  {1 / plain_s:8.0f}  {1 / labelled_s:14.0f}")


if __name__ == "__main__":
    main()
