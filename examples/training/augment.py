"""Random views of a training frame: mirror, zoom with shift, light and colour.

The zoom only ever enlarges, so every pixel of a view is a real one and no border has to be invented.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

LARGEST_ZOOM = 1.3
LEAST_VISIBLE = 0.35  # a box cut to less than this part of itself is no longer labelled


def random_view(rng: np.random.Generator, size_wh: tuple[int, int]) -> npt.NDArray[np.float32]:
    """The 2x3 matrix that takes pixels of the frame to pixels of a random view of the same size."""
    width, height = size_wh
    zoom = rng.uniform(1.0, LARGEST_ZOOM) if rng.random() < 0.7 else 1.0
    left = rng.uniform(0.0, width * (1.0 - 1.0 / zoom))
    top = rng.uniform(0.0, height * (1.0 - 1.0 / zoom))
    # Pixel centres lie at +0.5: the continuous map x -> zoom * (x - left), written for pixel indices.
    matrix = np.array(
        [[zoom, 0.0, zoom * (0.5 - left) - 0.5], [0.0, zoom, zoom * (0.5 - top) - 0.5]],
        np.float32,
    )
    for axis, last in enumerate((width - 1, height - 1)):
        if rng.random() < 0.5:  # seen from above, upside down is as likely as any other heading
            matrix[axis] = -matrix[axis]
            matrix[axis, 2] += last
    return matrix


def warp_image(image: npt.NDArray[np.uint8], view: npt.NDArray[np.float32], *, labels: bool) -> npt.NDArray[np.uint8]:
    """`image` (h, w[, 3]) seen through `view`; class maps keep their values (`labels`)."""
    size_wh = (image.shape[1], image.shape[0])
    interpolation = cv2.INTER_NEAREST if labels else cv2.INTER_LINEAR
    warped = cv2.warpAffine(image, view, size_wh, flags=interpolation, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, np.uint8)


def warp_boxes(
    boxes: npt.NDArray[np.float32], view: npt.NDArray[np.float32], size_wh: tuple[int, int]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """`boxes` (k, 4) in fractions of the frame seen through `view`, clipped, and which of them (k,) stay labelled."""
    size = np.array(size_wh * 2, np.float32)
    pixels = boxes * size - 0.5
    xs = np.sort(pixels[:, 0::2] * view[0, 0] + view[0, 2], axis=1)
    ys = np.sort(pixels[:, 1::2] * view[1, 1] + view[1, 2], axis=1)
    warped = (np.stack([xs[:, 0], ys[:, 0], xs[:, 1], ys[:, 1]], axis=1) + 0.5) / size
    clipped = warped.clip(0.0, 1.0)
    return clipped.astype(np.float32), _areas(clipped) >= LEAST_VISIBLE * _areas(warped)


def _areas(boxes: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def random_light(rng: np.random.Generator, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """`image` with random contrast, brightness and white balance."""
    gains = rng.uniform(0.75, 1.25) * rng.uniform(0.93, 1.07, 3)
    shift = rng.uniform(-25.0, 25.0)
    tables = np.arange(256)[:, None] * gains + shift
    return np.asarray(cv2.LUT(image, tables.clip(0, 255).astype(np.uint8)[None]), np.uint8)
