"""Training frames from the synthetic drone camera, rendered once and kept on disk.

A frame is a pure function of (seed, frame index), so a cache folder is named by everything that decides its
content: the camera's source code, the seeds and the size. A changed camera therefore never trains on old frames.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from edgevision import synthetic
from edgevision.synthetic import AerialScene

FRAME_SIZE_WH = (1280, 720)
TRAINING_SEEDS = range(400)
HELD_OUT_SEEDS = range(10_000, 10_040)
FRAME_STEP = 97  # between two samples of one scene: three seconds, in which the drone has moved on


@dataclass(frozen=True)
class FrameSet:
    """Which frames to render: `frames_per_seed` frames, `FRAME_STEP` apart, of each scene in `seeds`."""

    seeds: range
    frames_per_seed: int

    def __len__(self) -> int:
        return len(self.seeds) * self.frames_per_seed

    def positions(self) -> Iterator[tuple[int, int]]:
        """(seed, frame index) of every frame, scene by scene."""
        for seed in self.seeds:
            for frame in range(self.frames_per_seed):
                yield seed, frame * FRAME_STEP


@dataclass(frozen=True)
class Frames:
    """Rendered frames in the network's size.

    images: (n, h, w, 3) uint8 BGR. boxes: n arrays (k, 4) float32 xyxy as fractions of the frame. class_ids: n
    arrays (k,) int64. class_maps: (n, h, w) uint8, or None where they were not asked for.
    """

    images: npt.NDArray[np.uint8]
    boxes: list[npt.NDArray[np.float32]]
    class_ids: list[npt.NDArray[np.int64]]
    class_maps: npt.NDArray[np.uint8] | None


@dataclass(frozen=True)
class _Job:
    folder: Path
    frame_set: FrameSet
    size_wh: tuple[int, int]
    with_class_map: bool


def load_frames(
    cache: Path, frame_set: FrameSet, size_wh: tuple[int, int], *, class_maps: bool, workers: int
) -> Frames:
    """Render `frame_set` in `size_wh` (stretched as the runtime does), or read it from `cache`.

    Disk: 3 bytes a pixel, 4 with class maps; 4800 frames of 320x320 are 1.5 GB.
    """
    job = _Job(cache / _key(frame_set, size_wh, class_maps), frame_set, size_wh, class_maps)
    if not (job.folder / "boxes.npz").exists():
        _render(job, workers)
    arrays = np.load(job.folder / "boxes.npz")
    cuts = np.cumsum(arrays["counts"])[:-1]
    return Frames(
        images=np.load(job.folder / "images.npy", mmap_mode="r"),
        boxes=np.split(arrays["boxes"], cuts),
        class_ids=np.split(arrays["class_ids"], cuts),
        class_maps=np.load(job.folder / "class_maps.npy", mmap_mode="r") if class_maps else None,
    )


def _key(frame_set: FrameSet, size_wh: tuple[int, int], class_maps: bool) -> str:
    digest = hashlib.sha256(json.dumps([repr(frame_set), size_wh, class_maps, FRAME_STEP]).encode())
    for source in sorted(Path(synthetic.__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return f"{size_wh[0]}x{size_wh[1]}-{len(frame_set)}-{digest.hexdigest()[:12]}"


def _render(job: _Job, workers: int) -> None:
    (width, height), count = job.size_wh, len(job.frame_set)
    job.folder.mkdir(parents=True, exist_ok=True)
    _create(job.folder / "images.npy", (count, height, width, 3))
    if job.with_class_map:
        _create(job.folder / "class_maps.npy", (count, height, width))
    tasks = [(job, index, seed) for index, seed in enumerate(job.frame_set.seeds)]
    found: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]] = []
    start = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for done, objects in enumerate(pool.imap(_render_scene, tasks), start=1):
            found += objects
            left_s = (time.monotonic() - start) / done * (len(tasks) - done)
            print(f"\rrendering scene {done}/{len(tasks)}, {left_s:.0f} s left ", end="", flush=True)
    print()
    # Written last and renamed into place: its presence says that the folder is complete.
    beside = job.folder / "boxes.partial.npz"
    np.savez(
        beside,
        counts=[len(ids) for _, ids in found],
        boxes=np.concatenate([boxes for boxes, _ in found]),
        class_ids=np.concatenate([ids for _, ids in found]),
    )
    beside.replace(job.folder / "boxes.npz")


def _create(path: Path, shape: tuple[int, ...]) -> None:
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape).flush()


def _render_scene(task: tuple[_Job, int, int]) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
    job, scene_index, seed = task
    cv2.setNumThreads(1)
    images = np.load(job.folder / "images.npy", mmap_mode="r+")
    class_maps = np.load(job.folder / "class_maps.npy", mmap_mode="r+") if job.with_class_map else None
    scene = AerialScene(seed, size_wh=FRAME_SIZE_WH)
    objects = []
    for frame in range(job.frame_set.frames_per_seed):
        rendered = scene.render(frame * FRAME_STEP, with_class_map=job.with_class_map)
        row = scene_index * job.frame_set.frames_per_seed + frame
        images[row] = cv2.resize(rendered.image, job.size_wh, interpolation=cv2.INTER_LINEAR)
        if class_maps is not None and rendered.class_map is not None:
            class_maps[row] = cv2.resize(rendered.class_map, job.size_wh, interpolation=cv2.INTER_NEAREST_EXACT)
        objects.append(((rendered.xyxy / np.tile(FRAME_SIZE_WH, 2)).astype(np.float32), rendered.class_id))
    return objects
