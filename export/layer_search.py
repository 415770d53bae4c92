"""Which layers go to FP16: the first of one order, as many as it takes, and of those some back to INT8.

The order is by the error that one multiply-add in FP16 removes, as sensitivity.py measures it one layer at a time. How
many are needed is found by measuring the loss: by bisection, as more layers in FP16 lose less, but for noise. What
harms alone need not harm beside others, and the last layer taken may do far more than was needed; so the dear ones of
those taken are tried in INT8 again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TypeAlias

from edgevision.export.sensitivity import Layer
from edgevision.export.yardstick import Loss

# What a layer between others of another precision costs besides, as a share of the network's multiply-adds: without it
# a sum, which has next to none, would seem a bargain whatever it does.
_SWITCH = 0.002
# In standard errors, by how much a mean above the budget does not yet refute a candidate of the search, which should
# neither give up layers for noise nor hand much to the verdict that fails there. With layers given back there is none:
# of many trials some are lucky.
_DOUBT = 1.0
# How often layers are tried in INT8 again, and the share of the multiply-adds for which a try is worth it: each is
# another chance that a layer which harms passes on these pictures.
TRIALS = 10
_LEAST_GAIN = 0.02

Measure: TypeAlias = Callable[[Sequence[Layer]], Loss]
"""The loss with these layers in FP16."""


class LayerSearch:
    """One search; it may be taken up again after its result was refuted.

    Attributes:
        order: all layers, those first that remove most noise for what they cost.
    """

    def __init__(self, layers: Sequence[Layer], max_drop: float, miss: Callable[[Loss, float], str]) -> None:
        """
        Args:
            max_drop: points.
            miss: why a loss is too much, where each figure may lie beyond its bound by so many of its standard errors;
                empty where it is not.
        """
        self.order = in_order(layers)
        self._max_drop, self._miss = max(max_drop, 0.0), miss
        self._count = 0
        self._given: list[list[Layer]] = []

    @property
    def kept(self) -> list[Layer]:
        """The layers in FP16, in order."""
        return [layer for layer in self.order[: self._count] if layer not in self.given_back]

    @property
    def given_back(self) -> list[Layer]:
        """Those that were in FP16, and are not now."""
        return [layer for group in self._given for layer in group]

    @property
    def doubt(self) -> float:
        """By how many standard errors the loss of `kept` may lie beyond its bounds."""
        return 0.0 if self._given else _DOUBT

    def run(self, measure: Measure, refuted: Loss | None = None) -> Loss:
        """The loss of `kept`, which is no miss unless that of all layers is one.

        Args:
            refuted: of `kept` as an earlier run left it; what that gave back last returns to FP16 first.
        """
        loss = refuted
        while self._given:
            self._given.pop()
            loss = measure(self.kept)
            if self._holds(loss):
                return loss
        loss = self._take(measure, loss)
        return self._give_back(measure, loss) if self._holds(loss) else loss

    def _take(self, measure: Measure, refuted: Loss | None) -> Loss:
        """Take as many layers as it needs, more than now where that was refuted."""
        losses: dict[int, Loss] = {} if refuted is None else {self._count: refuted}
        first, most = self._count, len(self.order)

        def holds(count: int) -> bool:
            losses[count] = measure(self.order[:count])
            return self._holds(losses[count])

        if (refuted is not None or not holds(first)) and first < most:
            self._count = fewest(first, most, self._guess(losses[first]), holds)
        return losses[self._count]

    def _guess(self, loss: Loss) -> int:
        """How many layers it should take, from the `loss` of those taken now."""
        left = list(accumulate((-layer.noise for layer in self.order), initial=_noise(self.order)))
        allowed = left[self._count] * self._room(loss)
        most = len(self.order)
        return next((count for count in range(self._count + 1, most) if left[count] <= allowed), most)

    def _give_back(self, measure: Measure, loss: Loss) -> Loss:
        """Layers back to INT8, the dearest first: those together that should be borne, then fewer."""
        # the last one's absence was measured when it was taken
        waiting = sorted(self.order[: max(self._count - 1, 0)], key=lambda layer: -layer.multiply_adds)
        at_once, least = len(waiting), _LEAST_GAIN * _multiply_adds(self.order)
        for _ in range(TRIALS):
            group = self._bearable(waiting, loss)[:at_once]
            if _multiply_adds(group) < least:
                group = waiting[:1]
            if self._room(loss) <= 1 or _multiply_adds(group) < max(least, 1):
                break
            self._given.append(group)
            tried = measure(self.kept)
            holds = self._holds(tried)
            if holds:
                loss, at_once = tried, 2 * len(group)
            else:
                self._given.pop()
                at_once = max(len(group) // 2, 1)
            if holds or len(group) == 1:
                waiting = [layer for layer in waiting if layer not in group]
        return loss

    def _holds(self, loss: Loss) -> bool:
        return not self._miss(loss, self.doubt)

    def _bearable(self, waiting: Sequence[Layer], loss: Loss) -> list[Layer]:
        """Of the layers those that should not make `loss`, of `kept`, too large together."""
        now = _noise(self.order) - _noise(self.kept)
        room = now * (self._room(loss) - 1)
        group = []
        for layer in waiting:
            if layer.noise <= room:
                group.append(layer)
                room -= layer.noise
        return group

    def _room(self, loss: Loss) -> float:
        """By what the noise may be multiplied if a loss is in proportion to it."""
        return self._max_drop / max(loss.drop_points, 1e-9)


def _noise(layers: Sequence[Layer]) -> float:
    return sum(layer.noise for layer in layers)


def _multiply_adds(layers: Sequence[Layer]) -> int:
    return sum(layer.multiply_adds for layer in layers)


def in_order(layers: Sequence[Layer]) -> list[Layer]:
    """The layers that remove most noise for what they cost first."""
    switch = max(_SWITCH * _multiply_adds(layers), 1)
    return sorted(layers, key=lambda layer: -layer.noise / (layer.multiply_adds + switch))


def fewest(first: int, most: int, guess: int, holds: Callable[[int], bool]) -> int:
    """The least number above `first` that holds, where larger ones do if a smaller one does; `most` if none is found.

    Args:
        first: does not hold.
        guess: where to begin, in first + 1..most.
        holds: measures; called once a number.
    """
    low, high = first, max(guess, first + 1)
    while high < most and not holds(high):
        low, high = high, min(most, first + 2 * (high - first))
    if high >= most and not holds(most):
        return most
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high
