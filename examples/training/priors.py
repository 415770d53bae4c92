"""Print prior sizes for the detector: k-means of the boxes in the training frames.

    python examples/training/priors.py

The distance between a box and a cluster is 1 - IoU of the two laid over one another (arXiv 1612.08242), so small
boxes count as much as large ones. Sizes are in pixels of the network's input; paste them into detector.PRIOR_SIZES.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from data import FRAME_SIZE_WH, TRAINING_SEEDS, FrameSet
from detector import INPUT_WH, PRIOR_SIZES
from edgevision.synthetic import AerialScene

SCENES = 60
FRAMES_PER_SCENE = 4
ITERATIONS = 60

Float = npt.NDArray[np.float64]


def shape_iou(a: Float, b: Float) -> Float:
    """IoU of sizes laid over one another: (n, 2) x (k, 2) -> (n, k)."""
    overlap = np.minimum(a[:, None], b[None]).prod(axis=-1)
    union = a.prod(axis=-1)[:, None] + b.prod(axis=-1)[None] - overlap
    return np.asarray(overlap / union)


def cluster_sizes(sizes: Float, count: int, seed: int = 0) -> Float:
    """`count` typical sizes (count, 2) of `sizes` (n, 2), by rising area."""
    centres = np.random.default_rng(seed).choice(sizes, count, replace=False)
    for _ in range(ITERATIONS):
        nearest = shape_iou(sizes, centres).argmax(axis=1)
        centres = np.stack(
            [np.median(sizes[nearest == k], axis=0) if (nearest == k).any() else centres[k] for k in range(count)]
        )
    return centres[np.argsort(centres.prod(axis=1))]


def main() -> None:
    scale = np.array(INPUT_WH) / np.array(FRAME_SIZE_WH)
    boxes = []
    for seed in TRAINING_SEEDS[:SCENES]:
        scene = AerialScene(seed, size_wh=FRAME_SIZE_WH)
        for _, frame in FrameSet(range(seed, seed + 1), FRAMES_PER_SCENE).positions():
            boxes.append(scene.render(frame).xyxy)
    xyxy = np.concatenate(boxes).astype(np.float64)
    sizes = (xyxy[:, 2:] - xyxy[:, :2]) * scale
    # Mirrored views and other headings are as likely as these: nothing needs to be added for them.
    found = cluster_sizes(sizes, sum(len(shapes) for shapes in PRIOR_SIZES))
    best = shape_iou(sizes, found).max(axis=1)
    print(f"{len(sizes)} boxes, mean best IoU {best.mean():.3f}, 5th percentile {np.percentile(best, 5):.3f}")
    for shapes in PRIOR_SIZES:
        level, found = found[: len(shapes)], found[len(shapes) :]
        print("    (" + " ".join(f"({w:.0f}, {h:.0f})," for w, h in level) + "),")


if __name__ == "__main__":
    main()
