"""Which layers go to FP16: the first of one order, as many as it takes, and of those some back to INT8.

The order is by the error that one multiply-add in FP16 removes, as sensitivity.py measures it one layer at a time. How
many are needed is found by measuring the loss: by bisection, as more layers in FP16 lose less, but for noise. An order
by such shares fills a knapsack badly where one layer has a large part of the multiply-adds; so the dearest are tried
against cheaper ones that come after. And what harms alone need not harm beside others, and the last layer taken may do
far more than was needed; so the dear ones of those taken are tried in INT8 again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeAlias

from edgevision.export.sensitivity import Layer
from edgevision.export.yardstick import Loss

# What a layer between others of another precision costs besides, as a share of the network's multiply-adds: without it
# a sum, which has next to none, would seem a bargain whatever it does.
_SWITCH = 0.002
# In standard errors, by how much a mean above the budget does not yet refute a candidate of the search, which should
# neither give up layers for noise nor hand much to the verdict that fails there. What is tried beyond that has none: of
# many trials some are lucky.
_DOUBT = 1.0
# How often layers are tried in INT8 again, and the share of the multiply-adds for which a try is worth it: each is
# another chance that a layer which harms passes on these pictures.
TRIALS = 10
_LEAST_GAIN = 0.02
# How many dear layers are tried for cheaper ones.
_EXCHANGES = 2

Measure: TypeAlias = Callable[[Sequence[Layer]], Loss]
"""The loss with these layers in FP16."""


@dataclass(frozen=True)
class _Choice:
    """The first `count` of an order without those given back; it may grow to the first `most`, and its loss may lie
    beyond its bounds by `doubt` standard errors."""

    order: tuple[Layer, ...]
    count: int
    most: int
    doubt: float = 0.0
    given: tuple[Layer, ...] = ()

    @property
    def kept(self) -> list[Layer]:
        return [layer for layer in self.order[: self.count] if layer not in self.given]

    def giving(self, layers: Sequence[Layer]) -> _Choice:
        return dataclasses.replace(self, most=self.count, doubt=0.0, given=(*self.given, *layers))


class LayerSearch:
    """One search; it may be taken up again after its result was refuted.

    Attributes:
        choice: of layers in FP16 now.
    """

    def __init__(self, layers: Sequence[Layer], max_drop: float, miss: Callable[[Loss, float], str]) -> None:
        """
        Args:
            max_drop: points.
            miss: why a loss is too much, where each figure may lie beyond its bound by so many of its standard errors;
                empty where it is not.
        """
        self._choice = _Choice(tuple(in_order(layers)), 0, len(layers), _DOUBT)
        self._earlier: list[_Choice] = []  # less in INT8, each what the next was made from
        self._max_drop, self._miss = max(max_drop, 0.0), miss

    @property
    def kept(self) -> list[Layer]:
        """The layers in FP16, in order."""
        return self._choice.kept

    @property
    def given_back(self) -> tuple[Layer, ...]:
        """Those that were in FP16, and are not now."""
        return self._choice.given

    @property
    def doubt(self) -> float:
        """By how many standard errors the loss of `kept` may lie beyond its bounds."""
        return self._choice.doubt

    def run(self, measure: Measure, refuted: Loss | None = None) -> Loss:
        """The loss of `kept`, which is no miss unless that of all layers is one.

        Args:
            refuted: of `kept` as an earlier run left it; what was won last is given up first.
        """
        loss, fresh = self._take(measure, refuted), not self._earlier
        while not self._holds(loss) and self._earlier:
            self._choice = self._earlier.pop()
            loss = self._take(measure)
        if fresh and self._holds(loss):
            loss = self._give_back(measure, self._exchange(measure, loss))
        return loss

    def _take(self, measure: Measure, refuted: Loss | None = None) -> Loss:
        """Take as many layers as it needs, more than now where that was refuted."""
        first, most = self._choice.count, self._choice.most
        losses = {} if refuted is None else {first: refuted}
        holds = self._holding(measure, self._choice, losses)
        if not holds(first) and first < most:
            count = fewest(first, most, self._guess(losses[first]), holds)
            self._choice = dataclasses.replace(self._choice, count=count)
        return losses[self._choice.count]

    def _holding(self, measure: Measure, choice: _Choice, losses: dict[int, Loss]) -> Callable[[int], bool]:
        """Whether so many of the choice's layers hold; what is not among the losses is measured."""

        def holds(count: int) -> bool:
            if count not in losses:
                losses[count] = measure(dataclasses.replace(choice, count=count).kept)
            return not self._miss(losses[count], choice.doubt)

        return holds

    def _guess(self, loss: Loss) -> int:
        """How many layers it should take, from the `loss` of those taken now."""
        order, most = self._choice.order, self._choice.most
        left = list(accumulate((-layer.noise for layer in order), initial=_noise(order)))
        allowed = left[self._choice.count] * self._room(loss)
        return next((count for count in range(self._choice.count + 1, most) if left[count] <= allowed), most)

    def _exchange(self, measure: Measure, loss: Loss) -> Loss:
        """Dear layers for others that are cheaper together, or for none."""
        for layer in sorted(self.kept, key=_cost)[:_EXCHANGES]:
            order, count = self._choice.order, self._choice.count
            others = (*(other for other in order if other != layer), layer)
            bound = _multiply_adds(self.kept) - _LEAST_GAIN * _multiply_adds(order)
            most = sum(cost <= bound for cost in accumulate(other.multiply_adds for other in others))
            if most < count:
                continue
            before, losses = self._choice, dict[int, Loss]()
            self._choice = _Choice(others, most, most)
            holds = self._holding(measure, self._choice, losses)
            if holds(most):
                # the prefix without its last one did not hold, nor does that without this layer
                first = count - 1 if layer == order[count - 1] else count - 2
                self._earlier.append(before)
                self._choice = dataclasses.replace(self._choice, count=fewest(first, most, most, holds))
                loss = losses[self._choice.count]
            else:
                self._choice = before
        return loss

    def _give_back(self, measure: Measure, loss: Loss) -> Loss:
        """Layers back to INT8, the dearest first: those together that should be borne, then fewer."""
        # the last one's absence was measured when it was taken
        waiting = sorted(self.kept[:-1], key=_cost)
        at_once, least = len(waiting), _LEAST_GAIN * _multiply_adds(self._choice.order)
        for _ in range(TRIALS):
            group = self._bearable(waiting, loss)[:at_once]
            if _multiply_adds(group) < least:
                group = waiting[:1]
            if self._room(loss) <= 1 or _multiply_adds(group) < max(least, 1):
                break
            before = self._choice
            self._choice = before.giving(group)
            tried = measure(self.kept)
            holds = self._holds(tried)
            if holds:
                self._earlier += [before, before.giving(group[: len(group) // 2])][: len(group)]
                loss, at_once = tried, 2 * len(group)
            else:
                self._choice = before
                at_once = max(len(group) // 2, 1)
            if holds or len(group) == 1:
                waiting = [layer for layer in waiting if layer not in group]
        return loss

    def _holds(self, loss: Loss) -> bool:
        """Whether that is small enough of what is chosen now."""
        return not self._miss(loss, self.doubt)

    def _bearable(self, waiting: Sequence[Layer], loss: Loss) -> list[Layer]:
        """Of the layers those that should not make `loss`, of `kept`, too large together."""
        now = _noise(self._choice.order) - _noise(self.kept)
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


def _cost(layer: Layer) -> int:
    """Sorts the dearest first."""
    return -layer.multiply_adds


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
