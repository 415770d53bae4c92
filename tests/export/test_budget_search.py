"""Which layers the search for a budget leaves in FP16, on losses that are known exactly."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevision.export.layer_search import TRIALS, LayerSearch, fewest, in_order
from edgevision.export.sensitivity import Layer
from edgevision.export.yardstick import Goal, Loss

MAX_DROP = 1.0
GOAL = Goal(MAX_DROP, 0.03, 0.97)


class Network:
    """Layers by name, each with its multiply-adds, the noise that was measured, and the points that it really costs."""

    def __init__(self, **layers: tuple[int, float, float]) -> None:
        self.layers = [Layer(name, name, cost, noise) for name, (cost, noise, _) in layers.items()]
        self.points = {name: points for name, (_, _, points) in layers.items()}
        self.tried: list[str] = []

    def search(self) -> LayerSearch:
        return LayerSearch(self.layers, MAX_DROP, lambda loss, errors: loss.miss(GOAL, errors))

    def __call__(self, kept: Sequence[Layer]) -> Loss:
        names = [layer.key for layer in kept]
        self.tried.append(" ".join(sorted(names)))
        return lost(sum(points for name, points in self.points.items() if name not in names))


def lost(points: float, error: float | None = None) -> Loss:
    return Loss(1.0, 1 - points / 100, points, error, None, None, None, None, (0,))


def names(layers: Sequence[Layer]) -> str:
    return " ".join(sorted(layer.key for layer in layers))


def test_a_dear_layer_whose_noise_does_no_harm_is_given_back() -> None:
    network = Network(a=(10, 9.0, 0.1), b=(100, 50.0, 0.1), c=(10, 4.0, 2.0), d=(10, 1.0, 0.5))
    search = network.search()
    loss = search.run(network)
    assert [layer.key for layer in in_order(network.layers)] == ["a", "b", "c", "d"]
    assert names(search.kept) == "c"
    assert names(search.given_back) == "a"  # b was exchanged for none
    assert loss.drop_points == pytest.approx(0.7)


def test_what_is_given_back_together_is_what_the_room_left_bears() -> None:
    """With the last layer in FP16 next to nothing is lost: of the others most may be INT8 again."""
    cheap = {f"c{i}": (10, 2.0, 0.2) for i in range(5)}
    network = Network(**cheap, big=(200, 20.0, 9.0), rest=(10, 0.5, 0.05))
    search = network.search()
    search.run(network)
    assert names(search.kept) == "big c4"
    assert network.points["rest"] + 4 * 0.2 <= MAX_DROP < network.points["rest"] + 5 * 0.2


def test_a_dear_layer_is_exchanged_for_cheaper_ones_behind_it() -> None:
    small = {f"s{i}": (5, 0.1, 0.2) for i in range(8)}
    network = Network(big=(100, 9.0, 0.9), **small)
    search = network.search()
    assert in_order(network.layers)[0].key == "big"
    doubts = []

    def measure(kept: Sequence[Layer]) -> Loss:
        doubts.append((len(kept), search.doubt))
        return network(kept)

    loss = search.run(measure)
    assert doubts[0] == (0, 1.0)
    assert (8, 0.0) in doubts
    assert (loss.drop_points, len(search.kept)) == (pytest.approx(0.9), 8)
    assert "big" not in names(search.kept)


def test_an_exchange_that_a_verdict_refutes_grows_and_is_undone_where_that_does_not_help() -> None:
    small = {f"s{i}": (5, 0.1, 0.2) for i in range(9)}
    network = Network(big=(100, 9.0, 0.5), **small)
    search = network.search()
    search.run(network)
    assert len(search.kept) == 7
    network.points["big"] = 0.7
    search.run(network, lost(1.1))
    assert len(search.kept) == 8
    network.points["big"] = 1.5
    search.run(network, lost(1.7))
    assert names(search.kept).split()[0] == "big"


def test_chance_may_excuse_what_is_kept_but_nothing_that_is_given_back() -> None:
    network = Network(a=(100, 9.0, 0.2), b=(10, 0.5, 1.0), c=(100, 0.04, 0.9))
    search = network.search()

    def measure(kept: Sequence[Layer]) -> Loss:
        return lost(network(kept).drop_points, 0.15)

    measured = search.run(measure)
    assert (names(search.kept), measured.drop_points, search.doubt) == ("a b", 0.9, 1.0)
    assert network.tried[-1] == "b"  # loses 1.1
    network.points["c"] = 1.1
    assert search.run(measure, lost(2.0)).drop_points <= MAX_DROP
    assert names(search.kept) == "b c"
    assert search.doubt == 0


def test_what_was_given_back_returns_when_a_verdict_refutes_it() -> None:
    cheap = {f"c{i}": (10, 2.0, 0.2) for i in range(5)}
    network = Network(**cheap, big=(200, 20.0, 9.0), rest=(10, 0.5, 0.05))
    search = network.search()
    search.run(network)
    network.points["c0"] = 0.5
    network.tried.clear()
    loss = search.run(network, lost(1.15))
    assert loss.drop_points <= MAX_DROP
    assert network.tried == ["big c2 c3 c4"]
    assert names(search.given_back) == "c0 c1"


def test_a_refuted_prefix_grows() -> None:
    network = Network(a=(10, 9.0, 2.0), b=(10, 4.0, 0.4), c=(10, 1.0, 0.4))
    search = network.search()
    search.run(network)
    assert names(search.kept) == "a"
    network.points["b"] = 0.8
    search.run(network, lost(1.2))
    assert names(search.kept) == "a b"


def test_all_layers_are_taken_where_nothing_else_helps() -> None:
    network = Network(a=(10, 9.0, 2.0), b=(10, 4.0, 2.0), c=(10, 1.0, 2.0))
    search = network.search()
    assert search.run(network).drop_points == 0
    assert names(search.kept) == "a b c"


def test_a_network_without_layers_is_measured_once() -> None:
    network = Network()
    assert network.search().run(network).drop_points == 0
    assert network.tried == [""]


LAYER = st.tuples(st.integers(1, 1000), st.floats(1e-6, 1.0), st.floats(0.0, 2.0))


@given(st.lists(LAYER, min_size=1, max_size=24))
def test_what_is_found_holds_and_is_no_more_than_the_prefix(found: list[tuple[int, float, float]]) -> None:
    network = Network(**{f"l{i}": layer for i, layer in enumerate(found)})
    search = network.search()
    loss = search.run(network)
    assert loss.drop_points <= MAX_DROP
    assert loss == network(search.kept)
    assert not set(search.kept) & set(search.given_back)
    assert len(network.tried) <= 4 * len(found).bit_length() + 5 + TRIALS


@pytest.mark.parametrize("count", range(8))
@pytest.mark.parametrize("guess", [1, 2, 5, 7])
def test_the_fewest_are_found_whatever_the_guess(count: int, guess: int) -> None:
    asked: list[int] = []

    def holds(number: int) -> bool:
        asked.append(number)
        return number >= count

    assert fewest(0, 7, guess, holds) == max(count, 1)
    assert len(set(asked)) == len(asked)
