"""How one tensor's range grew from share to share of the pictures, and which picture set it."""

from __future__ import annotations

import math
from typing import Any, Final

from edgevision.calibration.fields import check_keys, typed

SHARES: Final = 16
"""The pictures are divided into so many equal shares, by content, so that their order does not matter."""
EARLY: Final = 12
"""Shares of this number and above, a quarter of the pictures, are held back in thought."""


class Growth:
    """The farthest that a tensor reached.

    Attributes:
        reach: largest magnitude in each share of the pictures; 0 in a share without any.
        picture: digest of the picture with the largest of all (of equals, the first by digest); empty while there is
            none.
        runner_up: largest magnitude in all other pictures.
    """

    __slots__ = ("picture", "reach", "runner_up")

    def __init__(self) -> None:
        self.reach = [0.0] * SHARES
        self.picture = ""
        self.runner_up = 0.0

    @property
    def limit(self) -> float:
        """Largest magnitude in all pictures."""
        return max(self.reach)

    @property
    def early(self) -> float:
        """Largest magnitude in the pictures that are not held back."""
        return max(self.reach[:EARLY])

    def add(self, magnitude: float, share: int, digest: str) -> None:
        """One picture reaches `magnitude`."""
        self._add(magnitude, digest, 0.0)
        self.reach[share] = max(self.reach[share], magnitude)

    def merge(self, other: Growth) -> None:
        """Add what other pictures did."""
        self._add(other.limit, other.picture, other.runner_up)
        self.reach = [max(pair) for pair in zip(self.reach, other.reach, strict=True)]

    def _add(self, magnitude: float, digest: str, runner_up: float) -> None:
        """Meet a picture that reaches `magnitude`, all others with it `runner_up` at most. Before `reach` changes."""
        limit = self.limit
        if magnitude > limit or (0 < magnitude == limit and digest < self.picture):
            self.picture = digest
        self.runner_up = max(self.runner_up, runner_up, min(limit, magnitude))

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"reach": self.reach, "picture": self.picture, "runner_up": self.runner_up}

    @classmethod
    def from_json(cls, data: Any) -> Growth:
        """Read what anybody may have written; ValueError for what cannot be."""
        check_keys(data, {"reach", "picture", "runner_up"}, "growth")
        growth = cls()
        growth.picture = typed(data["picture"], str, "picture")
        growth.reach = [typed(value, float, "reach") for value in typed(data["reach"], list, "reach")]
        if len(growth.reach) != SHARES or not all(0 <= value < math.inf for value in growth.reach):
            raise ValueError(f"reach has {SHARES} finite magnitudes")
        growth.runner_up = typed(data["runner_up"], float, "runner_up")
        if not 0 <= growth.runner_up <= growth.limit:
            raise ValueError("no picture reaches farther than the farthest")
        return growth
