"""How long a lane may wait for more frames to infer together, learnt from the sources' rates and the model's speed."""

from __future__ import annotations

from collections.abc import Iterable

_SHARE = 0.5  # of an inference: waiting longer costs the frames at hand more than a fuller batch gives
_MEMORY = 0.9  # weight of the past in the running means
_LATE = 1.5  # periods after which a source that has not come is not waited for


class BatchWindow:
    """Expects each source's next frame one period after its last, and waits for those only that are due soon.

    Never for all: a source that is slow, late or lost holds nobody up. Not locked: whoever has it, has a lock.
    """

    def __init__(self) -> None:
        self._last: dict[int, float] = {}
        self._period: dict[int, float] = {}
        self._inference_s = 0.0

    def arrived(self, source: int, now: float) -> None:
        """A frame of this source has come, at a time of the monotonic clock."""
        if source in self._last:
            gap = now - self._last[source]
            before = self._period.get(source)
            # A gap is a pause, not a rate.
            if before is None or gap < 4 * before:
                self._period[source] = gap if before is None else _MEMORY * before + (1 - _MEMORY) * gap
        self._last[source] = now

    def forget(self, source: int) -> None:
        """No more frames of this source will come."""
        self._last.pop(source, None)
        self._period.pop(source, None)

    def inferred(self, seconds: float) -> None:
        """A batch took this long."""
        before = self._inference_s
        self._inference_s = seconds if not before else _MEMORY * before + (1 - _MEMORY) * seconds

    def until(self, now: float, missing: Iterable[int]) -> float:
        """The moment up to which it pays to wait for a frame of one of the `missing` sources; `now` if for none."""
        limit = now + _SHARE * self._inference_s
        latest = now
        for source in missing:
            period = self._period.get(source)
            if period is None:
                continue
            due = self._last[source] + period
            overdue = now > self._last[source] + _LATE * period
            if due <= limit and not overdue:
                latest = min(limit, max(latest, due + 0.1 * period))
        return latest
