"""Whether the pictures were enough, and which of them set the ranges: facts, and sentences about them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from edgevision.calibration.growth import SHARES, Growth
from edgevision.calibration.images import CalibrationImages
from edgevision.calibration.table import RangeTable

GROWTH: Final = 0.1
"""A range that the last quarter of the pictures widened by more than this share counts as still growing."""
STRETCHED: Final = 1.5
"""A range that one picture made so many times as wide as all others counts as stretched by it."""
_SHOWN: Final = 10


def saturation(table: RangeTable, images: CalibrationImages | None) -> dict[str, Any]:
    """What the growth of the ranges tells about the pictures, as plain data.

    Args:
        table: as collected or read.
        images: those that it was collected from, for their names; None: they go by their digests.

    Returns:
        pictures: how many were observed.
        ranges: how many were free to grow (an operator's limit that was reached is no finding).
        growth: per share of the pictures, in an order drawn by content: how many `pictures` up to it, the part of the
            final range that had been `reached`, on average, and how many ranges were `complete`.
        held_back: the last quarter: how many ranges it `widened` by more than GROWTH, the `worst` of them.
        stretched: how many ranges a single picture made more than STRETCHED times as wide as all others.
        set_by: the pictures that set most ranges: `picture`, `ranges`, `stretched` (the tensors).
        farthest: per tensor its `limit`, the `picture` that set it and the limit `without` that picture.
    """
    growth = _distinct(table)
    names = {} if images is None else dict(zip(images.digests, images.names, strict=True))
    count = len(growth)
    widened = {name: found for name, found in growth.items() if found.limit > (1 + GROWTH) * found.early}
    worst = max(widened, key=lambda name: widened[name].limit / max(widened[name].early, 1e-38), default=None)
    sets = Counter(found.picture for found in growth.values() if found.picture)
    curve = []
    for share in range(1, SHARES + 1):
        reached = [max(found.reach[:share]) / found.limit if found.limit else 1.0 for found in growth.values()]
        curve.append(
            {
                "pictures": -(-share * table.images // SHARES),
                "reached": round(sum(reached) / max(count, 1), 4),
                "complete": reached.count(1.0),
            }
        )
    return {
        "pictures": table.images,
        "ranges": count,
        "growth": curve,
        "held_back": {
            "widened": len(widened),
            "worst": None if worst is None else {"tensor": worst, **_ends(growth[worst])},
        },
        "stretched": sum(map(_stretched, growth.values())),
        "set_by": [
            {
                "picture": names.get(digest, digest),
                "ranges": ranges,
                "stretched": [name for name, found in growth.items() if found.picture == digest and _stretched(found)],
            }
            for digest, ranges in sorted(sets.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN]
        ],
        "farthest": {
            name: {
                "limit": found.limit,
                "picture": names.get(found.picture, found.picture),
                "without": found.runner_up,
            }
            for name, found in growth.items()
        },
    }


def summary(facts: Mapping[str, Any]) -> list[str]:
    """What `saturation` found, in two sentences: were there enough pictures, and which of them set the ranges."""
    if not facts["ranges"]:
        return []
    held_back, top = facts["held_back"], facts["set_by"][:1]
    verdict = (
        f"the last quarter of {facts['pictures']} pictures widened {held_back['widened']} of {facts['ranges']} ranges "
        f"by more than {GROWTH:.0%}"
    )
    worst = held_back["worst"]
    if worst is None:
        verdict += ": there are enough"
    else:
        verdict += f" (worst: {worst['tensor']!r} from {worst['from']:.3g} to {worst['to']:.3g}): "
        verdict += "more would make them surer"
    if not top:
        return [verdict]
    stretched = f"{facts['stretched']} ranges are" if facts["stretched"] else "no range is"
    return [
        verdict,
        f"{top[0]['picture']} set most ranges, {top[0]['ranges']} of {facts['ranges']}; {stretched} more than "
        f"{STRETCHED:g} times as wide for the sake of a single picture",
    ]


def markdown(facts: Mapping[str, Any]) -> list[str]:
    """What `saturation` found, as lines of Markdown."""
    lines = [f"{sentence[0].upper()}{sentence[1:]}." for sentence in summary(facts)]
    lines += ["", "| pictures | of the final range, on average | complete ranges |", "|---|---|---|"]
    lines += [f"| {row['pictures']} | {row['reached']:.1%} | {row['complete']} |" for row in facts["growth"]]
    lines += ["", "| picture | ranges it set | stretched by it alone |", "|---|---|---|"]
    for row in facts["set_by"]:
        shown = ", ".join(itertools.islice(row["stretched"], 3)) + (", ..." if len(row["stretched"]) > 3 else "")
        lines.append(f"| {row['picture']} | {row['ranges']} | {shown} |")
    return lines


def _distinct(table: RangeTable) -> dict[str, Growth]:
    """Growth by tensor, one tensor of those that share a histogram."""
    first = {id(table[name]): name for name in reversed(list(table.growth))}
    return {name: table.growth[name] for name in table.growth if first[id(table[name])] == name}


def _ends(found: Growth) -> dict[str, float]:
    return {"from": found.early, "to": found.limit}


def _stretched(found: Growth) -> bool:
    return found.limit > STRETCHED * found.runner_up
