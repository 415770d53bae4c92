"""Class names: built-in lists and label files."""

from __future__ import annotations

import json
from pathlib import Path

from edgevision.errors import UsageError

_FILE_LIMIT_BYTES = 1 << 20
_BACKGROUND = "background"
_VOC = (
    "background,aeroplane,bicycle,bird,boat,bottle,bus,car,cat,chair,cow,diningtable,dog,horse,motorbike,person,"
    "pottedplant,sheep,sofa,train,tvmonitor"
)
# The categories of the COCO paper (arXiv:1405.0312) by id; the published boxes use 80 of them.
_COCO = (
    "background,person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,street sign,"
    "stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,hat,backpack,umbrella,"
    "shoe,eye glasses,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,"
    "skateboard,surfboard,tennis racket,bottle,plate,wine glass,cup,fork,knife,spoon,bowl,banana,apple,sandwich,"
    "orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,potted plant,bed,mirror,dining table,window,desk,"
    "toilet,door,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,refrigerator,blender,book,"
    "clock,vase,scissors,teddy bear,hair drier,toothbrush"
)
_COCO_WITHOUT_BOXES = "background,street sign,hat,shoe,eye glasses,plate,mirror,window,desk,door,blender"
_CITYSCAPES = (
    "road,sidewalk,building,wall,fence,pole,traffic light,traffic sign,vegetation,terrain,sky,person,rider,car,truck,"
    "bus,train,motorcycle,bicycle"
)

BUILT_IN: dict[str, tuple[str, ...]] = {
    "coco80": tuple(name for name in _COCO.split(",") if name not in _COCO_WITHOUT_BOXES.split(",")),
    "coco90": tuple(_COCO.split(",")),
    "voc21": tuple(_VOC.split(",")),
    "cityscapes19": tuple(_CITYSCAPES.split(",")),
}
"""`coco90` has 91 slots: index = COCO category id, 0 = background. `voc21` starts with background too."""


def load_labels(labels: str | Path, count: int | None = None) -> tuple[str, ...]:
    """Class names in class order.

    Args:
        labels: a key of BUILT_IN, or a file: one name per line (UTF-8), or a JSON list of names.
        count: how many classes the model has; None where that is not known. A list that starts with `background`
            also fits a model with one class less, whose background was removed.

    Raises:
        UsageError: no such list or file, it cannot be read as names, or their number is not `count`.
    """
    names = BUILT_IN.get(str(labels)) or _read(Path(labels))
    if count is None or count == len(names):
        return names
    if names[0].casefold() == _BACKGROUND and count == len(names) - 1:
        return names[1:]
    fitting = [key for key, value in BUILT_IN.items() if len(value) - (value[0] == _BACKGROUND) <= count <= len(value)]
    raise UsageError(
        f"labels {labels} name {len(names)} classes, the model has {count}; give a file with {count} names, "
        f"one per line" + (f", or the built-in list {' or '.join(fitting)}" if fitting else "")
    )


def _read(path: Path) -> tuple[str, ...]:
    try:
        with path.open("rb") as handle:
            data = handle.read(_FILE_LIMIT_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"labels {path}: neither a file that can be read ({error}) nor a built-in list ({', '.join(BUILT_IN)})"
        ) from error
    if len(data) > _FILE_LIMIT_BYTES:
        raise UsageError(f"labels {path}: larger than {_FILE_LIMIT_BYTES} bytes, which no list of names is")
    try:
        text = data.decode("utf-8-sig")
        names = json.loads(text) if text.lstrip().startswith("[") else text.rstrip().splitlines()
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"labels {path}: neither text in UTF-8, one name per line, nor a JSON list ({error})"
        ) from error
    for number, name in enumerate(names, 1):
        if not isinstance(name, str) or not name.strip() or not name.strip().isprintable():
            raise UsageError(f"labels {path}: entry {number} is {name!r:.60}; expected a name in printable characters")
    if not names:
        raise UsageError(f"labels {path}: the file is empty; expected one class name per line")
    return tuple(name.strip() for name in names)
