"""Finding a sink by its URI, and outputs per source."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgevision.errors import SinkError, UsageError
from edgevision.frame import Frame
from edgevision.results import Detections
from edgevision.sinks import open_sink
from tests.camera_kit import ListSource, numbered

pytestmark = pytest.mark.smoke


@pytest.mark.parametrize("uri", ["out.avi", "out", ""])
def test_an_unknown_uri_is_refused_with_a_list_of_what_is_understood(uri: str) -> None:
    with pytest.raises(UsageError, match="is not understood") as refused:
        open_sink(uri)
    for form in ("out.mp4", "out_%06d.jpg", "out.jsonl", "coco:out.json"):
        assert form in str(refused.value)


@pytest.mark.parametrize("name", ["out.mp4", "out_%06d.jpg", "out.jsonl", "coco:out.json"])
def test_a_missing_folder_is_told_before_anything_runs(name: str, tmp_path: Path) -> None:
    prefix, _, rest = name.rpartition(":")
    uri = f"{prefix}:{tmp_path}/absent/{rest}" if prefix else f"{tmp_path}/absent/{rest}"
    with pytest.raises(SinkError, match="absent does not exist; create it first"):
        open_sink(uri)


@pytest.mark.parametrize("name", ["out.mp4", "out.jpg", "out.jsonl"])
def test_a_folder_of_that_name_is_told(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(SinkError, match="is a folder"):
        open_sink(tmp_path / name)


@pytest.mark.parametrize("name", ["out.mp4", "out_%d.png", "coco:out.json"])
def test_several_sources_need_outputs_of_their_own(name: str) -> None:
    with pytest.raises(UsageError, match=r"takes one source, got 2; .*out.*_\{source\}"):
        open_sink(name, [ListSource(1, "a"), ListSource(1, "b")])


def test_each_source_writes_its_own_file(tmp_path: Path) -> None:
    sink = open_sink(f"{tmp_path}/{{source}}.jsonl", [ListSource(1, "a"), ListSource(1, "b")])
    for source_id in ("a", "b", "a"):
        sink.write(Frame(numbered(0), source_id=source_id), Detections.empty(), {})
    sink.close()
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 2
    assert len((tmp_path / "b.jsonl").read_text().splitlines()) == 1


def test_a_sink_never_overwrites_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = ListSource(1)
    source.status.uri = "clip.mp4"
    for name in ("clip.mp4", "./clip.mp4", str(tmp_path / "clip.mp4")):
        with pytest.raises(UsageError, match="would overwrite the source"):
            open_sink(name, [source])
