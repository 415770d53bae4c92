"""How a model's classes meet a data set's."""

from __future__ import annotations

import pytest

from edgevision.errors import DatasetError
from edgevision.evaluation.classes import match_classes
from edgevision.labels import BUILT_IN


def test_names_meet_whatever_their_order_case_and_separators() -> None:
    match = match_classes(("Stop_Sign", "car", "kite"), 3, ("CAR", "person", "stop sign"))
    assert match.to_dataset.tolist() == [2, 0, -1]
    assert match.judged == (0, 2)
    assert "person" in match.warnings[0]


def test_every_class_of_voc_is_a_class_of_coco() -> None:
    match = match_classes(BUILT_IN["coco80"], 80, BUILT_IN["voc21"][1:])
    assert match.judged == tuple(range(20))
    assert not match.warnings
    ours = BUILT_IN["coco80"].index
    for coco, voc in (("tv", "tvmonitor"), ("airplane", "aeroplane"), ("couch", "sofa"), ("motorcycle", "motorbike")):
        assert BUILT_IN["voc21"][1:][match.to_dataset[ours(coco)]] == voc


def test_without_names_equal_counts_meet_in_order_and_say_so() -> None:
    match = match_classes((), 3, ("a", "b", "c"))
    assert match.to_dataset.tolist() == [0, 1, 2]
    assert "in order" in match.warnings[0]
    match = match_classes(("a", "b"), 2, ())
    assert match.names == ("a", "b")
    assert "class ids" in match.warnings[0]
    assert match_classes((), 2, ()).names == ("0", "1")


@pytest.mark.parametrize(
    ("labels", "count", "names", "message"),
    [
        ((), 90, BUILT_IN["coco80"], r"90 classes without names, the data set 80.*--labels"),
        (("RBC", "WBC"), 2, ("car", "bus"), r"RBC.*car.*--labels"),
        (("tv", "tvmonitor"), 2, ("tv", "car"), "model has two classes called 'tv'"),
        (("tv", "car"), 2, ("TV", "tvmonitor"), "data set has two classes called 'tv'"),
    ],
)
def test_what_cannot_meet_is_refused(labels: tuple[str, ...], count: int, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        match_classes(labels, count, names)


def test_unused_model_names_may_repeat() -> None:
    assert match_classes(("???", "car", "???"), 3, ("car",)).to_dataset.tolist() == [-1, 0, -1]
