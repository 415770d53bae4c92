"""A range that somebody else chose: no histogram, one answer to every method."""

from __future__ import annotations

from edgevision.calibration.histogram import Histogram


class StatedRange(Histogram):
    """Values from -`stated` to `stated`, as another calibrator left them."""

    __slots__ = ("stated",)

    def __init__(self, stated: float) -> None:
        super().__init__()
        self.extend(-stated, stated)
        self.stated = stated

    def symmetric_limit(self, method: str) -> float:
        return self.stated

    def affine_range(self, method: str) -> tuple[float, float]:
        """The same grid as the symmetric one: 254 steps around a zero point in the middle, and one more below."""
        step = self.stated / 127
        return -128 * step, self.stated
