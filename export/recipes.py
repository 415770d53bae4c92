"""`--preprocess`: what was done to a pixel before training, in one word or in numbers.

Sources: keras.applications, imagenet_utils.preprocess_input (modes tf, torch, caffe); pytorch/vision,
transforms.Normalize with the statistics of ImageNet on 0..1, here in 0..255 units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgevision.errors import UsageError

Triple = tuple[float, float, float]
_COLORS = ("rgb", "bgr")


@dataclass(frozen=True)
class Recipe:
    """How pixels are normalised.

    Attributes:
        mean, std: per channel in the network's order, 0..255 units: (pixel - mean) / std.
        color: the order that these numbers are for; None: all channels are treated alike, the family's order stays.
    """

    mean: Triple
    std: Triple
    color: str | None = None


RECIPES = {
    "tf": Recipe((127.5,) * 3, (127.5,) * 3),
    "torch": Recipe((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "rgb"),
    "caffe": Recipe((103.939, 116.779, 123.68), (1.0,) * 3, "bgr"),
    "unit": Recipe((0.0,) * 3, (255.0,) * 3),
    "raw": Recipe((0.0,) * 3, (1.0,) * 3),
}
CHOICES = (
    "tf (pixels to -1..1), torch (RGB, ImageNet statistics), caffe (BGR minus ImageNet's mean), unit (pixels to 0..1), "
    "raw (0..255), or MEAN/STD or MEAN/STD/rgb|bgr, one or three numbers each in 0..255 units, like 127/128 or "
    "104,117,123/1/bgr"
)


def parse_recipe(text: str) -> Recipe:
    """The recipe that `text` names or spells out.

    Raises:
        UsageError: it does neither; lists what can be given.
    """
    if text in RECIPES:
        return RECIPES[text]
    mean, _, rest = text.partition("/")
    std, slash, color = rest.partition("/")
    means, stds = parse_triple(mean), parse_triple(std)
    if means is None or stds is None or 0.0 in stds or (slash and color not in _COLORS):
        raise UsageError(f"--preprocess {text}: expected {CHOICES}")
    return Recipe(means, stds, color or None)


def parse_triple(text: str) -> Triple | None:
    """One finite number for all channels, or three, separated by commas; None where it is neither."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        return None
    numbers = numbers * 3 if len(numbers) == 1 else numbers
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        return None
    return numbers[0], numbers[1], numbers[2]
