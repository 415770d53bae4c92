"""A drone's camera over a procedural world, with exact ground truth."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgevision.errors import UsageError
from edgevision.synthetic.camera import Camera
from edgevision.synthetic.cast import Cast
from edgevision.synthetic.casting import CAR, PAD, PERSON, TRUCK
from edgevision.synthetic.compositing import Visible, hide_overlaps, lay_body, lay_shadow, places
from edgevision.synthetic.effects import Effects
from edgevision.synthetic.ground import Ground
from edgevision.synthetic.layout import draw_plan
from edgevision.synthetic.palette import draw_palette
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
_REACH = 170  # how far an object and its shadow extend at most, pixels at 1280x720


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

    def __init__(self, seed: int, size_wh: tuple[int, int] = (1280, 720), fps: float = 30.0) -> None:
        """Build the world of ``seed`` (not negative).

        Raises:
            UsageError: for a negative seed, a size below 16x16 or a rate that is not above zero.
        """
        if seed < 0 or min(size_wh) < 16 or not fps > 0:
            raise UsageError(
                f"a scene of seed {seed}, size {size_wh[0]}x{size_wh[1]} and {fps} frames/s: "
                "give a seed of at least 0, a size of at least 16x16 and a rate above 0"
            )
        self._size_wh = (int(size_wh[0]), int(size_wh[1]))
        self._fps = float(fps)

        def stream(part: int) -> np.random.Generator:
            return np.random.default_rng([seed, part])

        palette = draw_palette(stream(0))
        plan = draw_plan(stream(1), palette.urban)
        ground = Ground(stream(2), palette)
        spots = build_terrain(ground, plan)
        self._camera = Camera(stream(3), self._size_wh)
        scale = self._camera.scale
        self._cast = Cast(stream(4), ground, plan, spots, 1.2 * scale)
        self._effects = Effects(stream(5), self._size_wh, scale)
        self._sun = np.asarray(palette.sun)
        # A world of half the resolution for pictures of half the size, and so on: a warp that
        # shrinks further than that would alias.
        level = max(0, int(np.floor(np.log2(1 / scale) + 1e-9)))
        step = 2**level
        side = ground.image.shape[0] // step
        world = ground.image
        if level:
            world = cv2.resize(world, (side, side), interpolation=cv2.INTER_AREA)
        # Four channels, because OpenCV warps those almost twice as fast as three.
        self._world = np.asarray(cv2.cvtColor(world, cv2.COLOR_BGR2BGRA))
        self._labels = np.ascontiguousarray(ground.labels[step // 2 :: step, step // 2 :: step])
        # From texels of that world to ground units.
        self._texel = np.array([[step, 0, (step - 1) / 2], [0, step, (step - 1) / 2], [0, 0, 1]])

    def render(self, frame_index: int, *, with_class_map: bool = False) -> AerialFrame:
        """Render one frame.

        Args:
            frame_index: from 0; the time is ``frame_index / fps`` seconds.
            with_class_map: also make the class map, which takes a little longer.
        """
        time_s = frame_index / self._fps
        view = self._camera.view(time_s)
        from_world = view @ self._texel
        image = cv2.warpAffine(self._world, from_world, self._size_wh, flags=cv2.INTER_LINEAR)
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGRA2BGR))
        objects = self._draw_objects(image, view, from_world, time_s)
        class_map = None
        if with_class_map:
            class_map = np.asarray(cv2.warpAffine(self._labels, from_world, self._size_wh, flags=cv2.INTER_NEAREST))
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
    ) -> list[Visible]:
        """Draw all objects in view over ``image``, in order; returns those that left a mark."""
        poses = self._cast.poses(time_s)
        zoom = view[:, :2]
        at = np.stack([poses.x, poses.y], 1) @ zoom.T + view[:, 2]
        margin = _REACH * self._camera.scale
        near = ((at > -margin) & (at < np.asarray(self._size_wh) + margin)).all(1)
        seen = [k for k in self._cast.order if near[k]]
        if not seen:
            return []
        sprites = [self._cast.phase(k, float(poses.travelled[k])) for k in seen]
        cos, sin = poses.cos[seen], poses.sin[seen]
        turn = np.stack([np.stack([cos, -sin], 1), np.stack([sin, cos], 1)], 1)
        linear = zoom @ turn / np.array([sprite.resolution for sprite in sprites])[:, None]
        height = np.array([sprite.height for sprite in sprites])
        centre, away = at[seen], height[:, None] * (zoom @ self._sun)
        bodies = places(linear, centre, [sprite.bgra for sprite in sprites], self._size_wh)
        shadows = places(linear, centre + away, [s.shadow for s in sprites], self._size_wh)
        area_gain = float(abs(np.linalg.det(zoom)))
        drawn: list[Visible] = []
        for i, (k, sprite) in enumerate(zip(seen, sprites, strict=True)):
            lay_shadow(image, sprite, shadows.matrix[i], shadows.rect[i])
            rect = bodies.rect[i]
            mask = lay_body(image, sprite, bodies.matrix[i], rect, self._labels, from_world)
            if mask is not None:
                class_id = self._cast.actors[k].class_id
                drawn.append(Visible(class_id, rect[0], rect[1], mask, sprite.area * area_gain))
        hide_overlaps(drawn)
        return drawn

    def _list(self, objects: list[Visible]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Boxes and classes of the objects that are visible enough."""
        boxes: list[tuple[int, int, int, int]] = []
        class_ids: list[int] = []
        smallest = _MIN_SIDE * self._camera.scale
        for thing in objects:
            x, y, w, h = cv2.boundingRect(thing.mask)
            if min(w, h) < smallest:
                continue
            if cv2.countNonZero(thing.mask) < _VISIBLE_SHARE * thing.full_area:
                continue
            x, y = x + thing.x, y + thing.y
            boxes.append((x, y, x + w, y + h))
            class_ids.append(thing.class_id)
        return np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(class_ids, np.int64)
