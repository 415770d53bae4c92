"""Class names from built-in lists and files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgevision.errors import UsageError
from edgevision.labels import BUILT_IN, load_labels


def test_built_in_lists_have_their_published_lengths() -> None:
    assert {key: len(names) for key, names in BUILT_IN.items()} == {
        "coco80": 80,
        "coco90": 91,
        "voc21": 21,
        "cityscapes19": 19,
    }
    for names in BUILT_IN.values():
        assert len(set(names)) == len(names)


def test_coco90_index_is_the_category_id_of_the_published_annotations(shared: Path) -> None:
    categories = json.loads((shared / "data/coco_val_a/boxes_coco.json").read_text())["categories"]
    assert [load_labels("coco90")[c["id"]] for c in categories] == [c["name"] for c in categories]
    assert list(load_labels("coco80", 80)) == [c["name"] for c in categories]


def test_a_list_with_background_serves_a_model_without_it() -> None:
    assert load_labels("coco90", 90)[0] == "person"
    assert load_labels("coco90", 91)[:2] == ("background", "person")
    assert load_labels("voc21", 20)[0] == "aeroplane"


@pytest.mark.parametrize("text", ["cat\ndog\n", "cat\r\ndog", '["cat", "dog"]', "\ufeffcat\n dog \n\n"])
def test_files_hold_lines_or_a_json_list(tmp_path: Path, text: str) -> None:
    path = tmp_path / "names.txt"
    path.write_text(text, encoding="utf-8", newline="")
    assert load_labels(path) == ("cat", "dog")


def test_a_wrong_count_names_both_numbers_and_the_list_that_fits(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("cat\ndog\n")
    with pytest.raises(UsageError, match=r"name 2 classes, the model has 80.*coco80"):
        load_labels(path, 80)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"cat\n\ndog\n", "entry 2"),
        (b"cat\n\x1b[31mdog\n", "entry 2"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b'["cat", 3]', "entry 2"),
        (b'["cat", ', "JSON"),
        (b"[" * 200_000, "JSON"),
        (b"x" * (1 << 21), "larger"),
    ],
)
def test_files_that_are_no_lists_of_names_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        load_labels(path)


def test_an_unknown_name_lists_the_built_in_ones() -> None:
    with pytest.raises(UsageError, match="coco80, coco90, voc21, cityscapes19"):
        load_labels("coco91")
    with pytest.raises(UsageError, match="built-in"):
        load_labels("nul\0byte")
