"""Labelled pictures from the synthetic camera, in the formats that real data sets use: COCO boxes and index masks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2

from edgevision.errors import DatasetError
from edgevision.files import atomic_path
from edgevision.geometry import xyxy_to_xywh
from edgevision.progress import Progress
from edgevision.synthetic import DETECTION_CLASSES, SEGMENTATION_CLASSES, AerialScene

# Frames this far apart show different places and light.
_STRIDE_FRAMES = 97


@dataclass(frozen=True)
class SyntheticDataset:
    """A written data set.

    Attributes:
        images: folder of pictures.
        coco_spec: `--dataset` value for the boxes.
        masks_spec: `--dataset` value for the class masks.
    """

    images: Path
    coco_spec: str
    masks_spec: str


def write_dataset(
    folder: Path | str,
    seeds: Sequence[int],
    frames_per_seed: int,
    size_wh: tuple[int, int] = (1280, 720),
    quiet: bool = False,
) -> SyntheticDataset:
    """Render `frames_per_seed` frames of each scene with their boxes and masks into `folder`.

    Writes `images/*.png`, `masks/*.png` (value = index into `classes.txt`), `classes.txt` and `annotations.json`.

    Raises:
        DatasetError: the folder cannot be written.
    """
    folder = Path(folder)
    images, masks = folder / "images", folder / "masks"
    records: list[dict[str, object]] = []
    boxes: list[dict[str, object]] = []
    try:
        images.mkdir(parents=True, exist_ok=True)
        masks.mkdir(exist_ok=True)
        with Progress("rendering labelled pictures", len(seeds) * frames_per_seed, quiet=quiet) as progress:
            for seed in seeds:
                scene = AerialScene(seed, size_wh)
                for step in range(frames_per_seed):
                    frame = scene.render(step * _STRIDE_FRAMES, with_class_map=True)
                    name = f"{seed:05d}_{step:02d}.png"
                    image_id = len(records) + 1
                    records.append({"id": image_id, "file_name": name, "width": size_wh[0], "height": size_wh[1]})
                    for box, class_id in zip(xyxy_to_xywh(frame.xyxy).tolist(), frame.class_id.tolist(), strict=True):
                        boxes.append({"id": len(boxes) + 1, "image_id": image_id, "category_id": class_id + 1})
                        boxes[-1] |= {"bbox": box, "area": box[2] * box[3], "iscrowd": 0}
                    _write_png(images / name, frame.image)
                    _write_png(masks / name, frame.class_map)
                    progress.update()
        classes = folder / "classes.txt"
        classes.write_text("\n".join(SEGMENTATION_CLASSES) + "\n")
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(DETECTION_CLASSES)]
        with atomic_path(folder / "annotations.json") as path:
            path.write_text(json.dumps({"images": records, "annotations": boxes, "categories": categories}))
    except OSError as error:
        raise DatasetError(f"cannot write a data set into {folder}: {error}") from error
    return SyntheticDataset(images, f"coco:{folder / 'annotations.json'}:{images}", f"masks:{images}:{masks}:{classes}")


def _write_png(path: Path, image: object) -> None:
    # Level 1: these files are read back at once, size hardly matters.
    if not cv2.imwrite(str(path), image, [cv2.IMWRITE_PNG_COMPRESSION, 1]):
        raise OSError(f"{path.name} could not be written (disk full?)")
