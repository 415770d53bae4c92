"""A drone's camera over a procedural world, with exact ground truth."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgevision.synthetic.camera import Camera
from edgevision.synthetic.cast import CAR, PAD, PERSON, TRUCK, Cast
from edgevision.synthetic.effects import Effects
from edgevision.synthetic.ground import VEGETATION, Ground
from edgevision.synthetic.layout import draw_plan
from edgevision.synthetic.palette import draw_palette
from edgevision.synthetic.sprites import Sprite
from edgevision.synthetic.terrain import build_terrain

DETECTION_CLASSES: tuple[str, ...] = ("car", "truck", "person", "landing_pad")
SEGMENTATION_CLASSES: tuple[str, ...] = (
    "ground",
    "road",
    "building",
    "vegetation",
    "vehicle",
    "person",
    "landing_pad",
)
_LABEL = {CAR: 4, TRUCK: 4, PERSON: 5, PAD: 6}
_VISIBLE_SHARE = 0.35
_MIN_SIDE = 14.0


@dataclass(frozen=True)
class AerialFrame:
    """A frame and its ground truth.

    Attributes:
        image: (h, w, 3) uint8 BGR.
        xyxy: (n, 4) float32, pixels of ``image``: edges of the visible pixels, inside the picture.
        class_id: (n,) int64 into DETECTION_CLASSES.
        class_map: (h, w) uint8 into SEGMENTATION_CLASSES, or None where it was not asked for.
    """

    image: NDArray[np.uint8]
    xyxy: NDArray[np.float32]
    class_id: NDArray[np.int64]
    class_map: NDArray[np.uint8] | None


@dataclass(frozen=True)
class _Visible:
    """An object in a frame: its visible pixels as a mask placed at (x, y)."""

    class_id: int
    x: int
    y: int
    mask: NDArray[np.uint8]
    full_area: float


class AerialScene:
    """One world and one flight over it; see ``render``.

    A scene is given by its seed; size and rate only sample it. ``render`` depends on its arguments
    alone: any frame, in any order, gives the same bits each time.

    **Which objects are listed.** The visible pixels of an object are those that it covers by at
    least half, inside the picture, not hidden by vegetation nor by objects drawn later (vehicles
    over landing pads, people over both). An object is listed when its visible pixels are at least
    35 % of the area it covers altogether and their bounding box is at least 14 pixels wide and
    high at 1280x720 (in proportion at other sizes). Its box bounds the visible pixels exactly.
    Shadows do not count.
    """

    def __init__(
        self, seed: int, size_wh: tuple[int, int] = (1280, 720), fps: float = 30.0
    ) -> None:
        """Build the world of ``seed``."""
        self._size_wh = (int(size_wh[0]), int(size_wh[1]))
        self._fps = float(fps)

        def stream(part: int) -> np.random.Generator:
            return np.random.default_rng([seed, part])

        palette = draw_palette(stream(0))
        plan = draw_plan(stream(1), palette.urban)
        terrain = build_terrain(Ground(stream(2), palette), plan)
        self._camera = Camera(stream(3), self._size_wh)
        scale = self._camera.scale
        self._cast = Cast(stream(4), terrain.ground, plan, terrain.spots, 1.2 * scale)
        self._effects = Effects(stream(5), self._size_wh, scale)
        self._sun = np.asarray(palette.sun)
        # A world of half the resolution for pictures of half the size, and so on: a warp that
        # shrinks further than that would alias.
        level = max(0, int(np.floor(np.log2(1 / scale) + 1e-9)))
        step = 2**level
        side = terrain.image.shape[0] // step
        self._world = np.asarray(cv2.resize(terrain.image, (side, side), interpolation=cv2.INTER_AREA)) if level else terrain.image
        self._labels = np.ascontiguousarray(terrain.labels[step // 2 :: step, step // 2 :: step])
        # From texels of that world to ground units.
        self._texel = np.array([[step, 0, (step - 1) / 2], [0, step, (step - 1) / 2], [0, 0, 1]])

    def render(self, frame_index: int, *, with_class_map: bool = False) -> AerialFrame:
        """Render one frame."""
        time_s = frame_index / self._fps
        view = self._camera.view(time_s)
        from_world = view @ self._texel
        image = np.asarray(cv2.warpAffine(self._world, from_world, self._size_wh, flags=cv2.INTER_LINEAR))
        objects = self._draw_objects(image, view, from_world, time_s)
        class_map = None
        if with_class_map:
            class_map = np.asarray(
                cv2.warpAffine(self._labels, from_world, self._size_wh, flags=cv2.INTER_NEAREST)
            )
            for thing in objects:
                h, w = thing.mask.shape
                part = class_map[thing.y : thing.y + h, thing.x : thing.x + w]
                part[thing.mask > 0] = _LABEL[thing.class_id]
        boxes, class_id = self._list(objects)
        image = self._effects.apply(image, time_s, frame_index)
        return AerialFrame(image, boxes, class_id, class_map)

    def _draw_objects(
        self,
        image: NDArray[np.uint8],
        view: NDArray[np.float64],
        from_world: NDArray[np.float64],
        time_s: float,
    ) -> list[_Visible]:
        poses = self._cast.poses(time_s)
        px = view[0, 0] * poses.x + view[0, 1] * poses.y + view[0, 2]
        py = view[1, 0] * poses.x + view[1, 1] * poses.y + view[1, 2]
        margin = 170 * self._camera.scale
        w, h = self._size_wh
        near = (px > -margin) & (py > -margin) & (px < w + margin) & (py < h + margin)
        area_gain = float(abs(np.linalg.det(view[:, :2])))
        drawn: list[_Visible] = []
        for k in self._cast.order:
            if not near[k]:
                continue
            sprite = self._cast.phase(k, float(poses.travelled[k]))
            turn = np.array([[poses.cos[k], -poses.sin[k]], [poses.sin[k], poses.cos[k]]])
            linear = view[:, :2] @ turn / np.asarray(sprite.resolution)
            offset = view[:, :2] @ self._sun * sprite.height
            self._lay(image, sprite.shadow, linear, (px[k] + offset[0], py[k] + offset[1]), None)
            found = self._lay(image, sprite.bgra, linear, (px[k], py[k]), from_world)
            if found is not None:
                x, y, mask = found
                drawn.append(_Visible(self._cast.actors[k].class_id, x, y, mask, sprite.area * area_gain))
        return drawn

    def _lay(
        self,
        image: NDArray[np.uint8],
        bgra: NDArray[np.uint8],
        linear: NDArray[np.float64],
        centre: tuple[float, float],
        from_world: NDArray[np.float64] | None,
    ) -> tuple[int, int, NDArray[np.uint8]] | None:
        """Warp a sprite into the picture, under the vegetation where ``from_world`` is given.

        Returns the place and mask of the pixels that it covers by at least half.
        """
        h, w = bgra.shape[:2]
        half = np.abs(linear) @ [w / 2, h / 2]
        x0, y0 = max(0, int(centre[0] - half[0])), max(0, int(centre[1] - half[1]))
        x1 = min(image.shape[1], int(centre[0] + half[0]) + 2)
        y1 = min(image.shape[0], int(centre[1] + half[1]) + 2)
        if x1 <= x0 or y1 <= y0:
            return None
        size = (x1 - x0, y1 - y0)
        start = np.asarray(centre) - [x0, y0] - linear @ [(w - 1) / 2, (h - 1) / 2]
        patch = cv2.warpAffine(bgra, np.column_stack([linear, start]), size, flags=cv2.INTER_LINEAR)
        if from_world is not None:
            local = from_world.copy()
            local[:, 2] -= [x0, y0]
            labels = cv2.warpAffine(self._labels, local, size, flags=cv2.INTER_NEAREST)
            canopy = cv2.compare(labels, VEGETATION, cv2.CMP_EQ)
            if cv2.countNonZero(canopy):
                patch = cv2.bitwise_and(patch, patch, mask=cv2.bitwise_not(canopy))
        alpha = cv2.extractChannel(patch, 3)
        target = image[y0:y1, x0:x1]
        cv2.multiply(target, cv2.cvtColor(cv2.bitwise_not(alpha), cv2.COLOR_GRAY2BGR), target, 1 / 255)
        cv2.add(target, cv2.cvtColor(patch, cv2.COLOR_BGRA2BGR), target)
        return x0, y0, np.asarray(cv2.compare(alpha, 127, cv2.CMP_GT))

    def _list(self, objects: list[_Visible]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Boxes and classes of the objects that are visible enough."""
        boxes: list[tuple[int, int, int, int]] = []
        class_ids: list[int] = []
        smallest = _MIN_SIDE * self._camera.scale
        for k, thing in enumerate(objects):
            for later in objects[k + 1 :]:
                _hide(thing, later)
            x, y, w, h = cv2.boundingRect(thing.mask)
            if min(w, h) < smallest:
                continue
            if cv2.countNonZero(thing.mask) < _VISIBLE_SHARE * thing.full_area:
                continue
            x, y = x + thing.x, y + thing.y
            boxes.append((x, y, x + w, y + h))
            class_ids.append(thing.class_id)
        return np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(class_ids, np.int64)


def _hide(thing: _Visible, later: _Visible) -> None:
    """Take from an object's mask what a later one covers."""
    x0, y0 = max(thing.x, later.x), max(thing.y, later.y)
    x1 = min(thing.x + thing.mask.shape[1], later.x + later.mask.shape[1])
    y1 = min(thing.y + thing.mask.shape[0], later.y + later.mask.shape[0])
    if x0 < x1 and y0 < y1:
        under = thing.mask[y0 - thing.y : y1 - thing.y, x0 - thing.x : x1 - thing.x]
        over = later.mask[y0 - later.y : y1 - later.y, x0 - later.x : x1 - later.x]
        under[over > 0] = 0


