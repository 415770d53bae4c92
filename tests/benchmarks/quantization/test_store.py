"""What was measured once is not measured again, unless what it was measured from has changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.quantization.store import Store


class Counted:
    """Work that says how often it was done."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> dict[str, Any]:
        self.times += 1
        return {"time": self.times}


def test_a_result_is_kept_with_when_and_beside_what_it_was_measured(tmp_path: Path) -> None:
    work = Counted()
    first = Store(tmp_path / "model").measure("a.export", {"pictures": 30, "pair": (1, 2)}, work)
    again = Store(tmp_path / "model").measure("a.export", {"pictures": 30, "pair": (1, 2)}, work)
    assert work.times == 1
    assert again["time"] == first["time"] == 1
    assert {"key", "date", "load"} <= set(again)


def test_another_key_measures_anew(tmp_path: Path) -> None:
    work, store = Counted(), Store(tmp_path)
    store.measure("a.export", {"pictures": 30}, work)
    assert store.measure("a.export", {"pictures": 10}, work)["time"] == 2


def test_a_damaged_file_measures_anew(tmp_path: Path) -> None:
    work, store = Counted(), Store(tmp_path)
    store.measure("a.export", {}, work)
    (tmp_path / "a.export.json").write_text('{"key"')
    assert store.measure("a.export", {}, work)["time"] == 2


def test_forgetting_a_method_leaves_those_whose_names_begin_alike(tmp_path: Path) -> None:
    work, store = Counted(), Store(tmp_path)
    for name in ("edgevision.export", "edgevision.accuracy", "edgevision-cpu.accuracy"):
        store.measure(name, {}, work)
    store.forget("edgevision")
    assert [file.name for file in tmp_path.iterdir()] == ["edgevision-cpu.accuracy.json"]
