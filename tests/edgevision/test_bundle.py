"""Bundles: what is written is what is read, damage and hostility are refused in words, writing is all or nothing."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevision.bundle import Bundle, write_bundle
from edgevision.errors import BundleError
from edgevision.files import sha256
from edgevision.manifest import FileInfo
from tests.tiny_models import detector_manifest

GRAPH = b"not really a graph, but bytes" * 50
FILES = {"model.onnx": GRAPH, "report.json": b'{"accuracy": 0.5}'}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "model.edge"
    write_bundle(target, detector_manifest(), FILES)
    return target


def entries(path: Path) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def rewrite(path: Path, items: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> Path:
    """A bundle with any entries, as an attacker would write it."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in items:
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return path


def with_manifest(path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    items = entries(path)
    manifest = json.loads(items[0][1])
    change(manifest)
    return rewrite(path, [("manifest.json", json.dumps(manifest).encode()), *items[1:]])


def read_all(path: Path) -> dict[str, bytes]:
    bundle = Bundle(path)
    return {name: bundle.read(name) for name in bundle.manifest.files}


def refused(path: Path, words: str) -> None:
    with pytest.raises(BundleError, match=words):
        read_all(path)


def test_what_is_written_is_what_is_read(path: Path) -> None:
    bundle = Bundle(path)
    expected = {name: FileInfo(len(data), sha256(data)) for name, data in FILES.items()}
    assert bundle.manifest.files == expected
    assert (bundle.manifest.name, bundle.manifest.labels) == ("colours", ("red", "green", "blue"))
    assert bundle.read("model.onnx") == GRAPH
    assert bundle.report() == {"accuracy": 0.5}


def test_entries_are_stored_plain_with_the_manifest_first(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["manifest.json", "model.onnx", "report.json"]
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
    assert GRAPH in path.read_bytes()


def test_equal_exports_are_equal_files(tmp_path: Path, path: Path) -> None:
    write_bundle(tmp_path / "again.edge", detector_manifest(), dict(reversed(FILES.items())))
    assert (tmp_path / "again.edge").read_bytes() == path.read_bytes()


def test_a_bundle_without_a_report_has_an_empty_one(tmp_path: Path) -> None:
    write_bundle(tmp_path / "m.edge", detector_manifest(), {"model.onnx": GRAPH})
    assert Bundle(tmp_path / "m.edge").report() == {}


def test_asking_for_what_it_does_not_hold_names_what_it_holds(path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no cpu.onnx; it holds \['model.onnx', 'report.json'\]"):
        Bundle(path).read("cpu.onnx")


class TestHostileFiles:
    def test_missing(self, tmp_path: Path) -> None:
        refused(tmp_path / "none.edge", "does not exist; write one with: edgevision export")

    def test_a_folder_a_pipe_and_a_device(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
            refused(path, "is not a file")

    @pytest.mark.parametrize("content", [b"", b"PK", b"\x08\x07pytorch onnx", b"PK\x05\x06" + bytes(18)])
    def test_other_files(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "m.edge").write_bytes(content)
        refused(tmp_path / "m.edge", "is not an edgevision bundle")

    def test_cut_off_anywhere(self, path: Path) -> None:
        whole = path.read_bytes()
        for keep in range(0, len(whole), 97):
            path.write_bytes(whole[:keep])
            refused(path, "m")

    @pytest.mark.parametrize("name", ["../evil", "/etc/cron.d/evil", "sub/model.onnx", "model.onnx/", "MODEL.ONNX"])
    def test_entries_of_other_names(self, path: Path, name: str) -> None:
        refused(rewrite(path, [*entries(path), (name, b"x")]), "expected manifest.json and some of|once each")

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    @pytest.mark.parametrize("name", ["manifest.json", "model.onnx"])
    def test_an_entry_twice(self, path: Path, name: str) -> None:
        refused(rewrite(path, [*entries(path), (name, dict(entries(path))[name])]), "once each")

    def test_no_manifest(self, path: Path) -> None:
        refused(rewrite(path, entries(path)[1:]), "expected manifest.json")

    @pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_compressed_entries(self, path: Path, method: int) -> None:
        refused(rewrite(path, entries(path), method), "compressed or encrypted")

    def test_a_decompression_bomb_is_refused_before_it_is_read(self, path: Path) -> None:
        manifest = entries(path)[0]
        bomb = rewrite(path, [manifest, ("model.onnx", bytes(200 << 20))], zipfile.ZIP_DEFLATED)
        assert bomb.stat().st_size < 1 << 20
        refused(bomb, "compressed or encrypted")

    def test_encrypted_entries(self, path: Path) -> None:
        data = bytearray(path.read_bytes())
        for signature, flags in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
            at = data.index(signature)
            data[at + flags] |= 1
        path.write_bytes(data)
        refused(path, "compressed or encrypted")

    def test_a_huge_declared_size(self, path: Path) -> None:
        data = bytearray(path.read_bytes())
        at = data.rindex(b"PK\x01\x02")
        for size in (1 << 30, (1 << 32) - 2):
            data[at + 20 : at + 28] = struct.pack("<2L", size, size)
            path.write_bytes(data)
            refused(path, "claim more bytes than the file has|limit")

    def move_graph(self, path: Path, place: int) -> None:
        """Let the table of contents say that the graph starts at byte `place`."""
        data = bytearray(path.read_bytes())
        entry = data.rindex(b"model.onnx") - 46
        assert data[entry : entry + 4] == b"PK\x01\x02"
        data[entry + 42 : entry + 46] = struct.pack("<L", place)
        path.write_bytes(data)

    @pytest.mark.parametrize("back", [5, 0, -1000])
    def test_an_entry_that_starts_at_the_end_or_behind_it(self, path: Path, back: int) -> None:
        self.move_graph(path, path.stat().st_size - back)
        refused(path, "model.onnx cannot be read")

    def test_an_entry_with_less_behind_it_than_it_claims(self, tmp_path: Path) -> None:
        """The report's content poses as the header of a graph that would reach behind the end of the file."""
        path = tmp_path / "m.edge"
        write_bundle(path, detector_manifest(), {"model.onnx": GRAPH})
        header = path.read_bytes()[path.read_bytes().rindex(b"PK\x03\x04") :][: 30 + len("model.onnx")]
        write_bundle(path, detector_manifest(), {"model.onnx": GRAPH, "report.json": header})
        self.move_graph(path, path.read_bytes().rindex(header))
        refused(path, "model.onnx cannot be read")

    def test_entries_laid_over_each_other(self, path: Path) -> None:
        """One stored megabyte listed many times is a bomb without compression."""
        manifest = json.loads(entries(path)[0][1])
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model.onnx", bytes(1 << 20))
            for name in ("cpu.onnx", "tensorrt.onnx", "tensorrt_fp16.onnx"):
                copy = zipfile.ZipInfo(name)
                first = archive.filelist[0]
                copy.header_offset, copy.CRC = first.header_offset, first.CRC
                copy.file_size = copy.compress_size = first.file_size
                archive.filelist.append(copy)
            archive.writestr("manifest.json", json.dumps(manifest))
        refused(path, "claim more bytes than the file has")

    def test_a_table_of_contents_with_a_million_entries_is_not_read(self, path: Path) -> None:
        data = bytearray(path.read_bytes())
        for counts, length in ((60_000, 5000), (3, 1 << 30)):
            data[-22:] = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, counts, counts, length, 0, 0)
            path.write_bytes(data)
            refused(path, "table of contents")

    def test_the_64_bit_form_whose_counts_stand_elsewhere(self, path: Path) -> None:
        data = path.read_bytes()
        locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 1)
        path.write_bytes(data[:-22] + locator + data[-22:])
        refused(path, "table of contents")

    @pytest.mark.parametrize(
        "text", [b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format_version": ' + b"9" * 5000 + b"}"]
    )
    def test_a_manifest_that_is_none(self, path: Path, text: bytes) -> None:
        refused(rewrite(path, [("manifest.json", text), *entries(path)[1:]]), "damaged|format version")

    def test_a_manifest_of_five_megabytes(self, path: Path) -> None:
        text = entries(path)[0][1]
        refused(rewrite(path, [("manifest.json", text + b" " * (5 << 20)), *entries(path)[1:]]), "limit 4194304")

    def test_a_newer_version(self, path: Path) -> None:
        refused(with_manifest(path, lambda m: m.update(format_version=2)), "format version 2, expected 1; install")

    def test_a_file_changed_after_export(self, path: Path) -> None:
        changed = GRAPH[:-1] + b"!"
        items = [(name, changed if name == "model.onnx" else data) for name, data in entries(path)]
        refused(rewrite(path, items), "model.onnx was changed after export")

    def test_a_flipped_bit(self, path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[data.index(GRAPH) + 7] ^= 1
        path.write_bytes(data)
        refused(path, "model.onnx cannot be read .*CRC|changed after export")

    def test_files_added_or_taken_away(self, path: Path) -> None:
        items = entries(path)
        refused(rewrite(path, [*items, ("cpu.onnx", b"x")]), "manifest lists")
        refused(rewrite(path, items[:-1]), "manifest lists")

    def test_a_graph_that_is_not_there_or_not_a_graph(self, path: Path) -> None:
        for name in ("cpu.onnx", "report.json", "../../model.onnx"):
            copy = path.with_name("copy.edge")
            copy.write_bytes(path.read_bytes())
            refused(
                with_manifest(copy, lambda m, name=name: m["graphs"].update({name: {"precision": "int8"}})), "graphs"
            )

    def test_a_report_that_is_no_object(self, tmp_path: Path) -> None:
        for text in (b"[1]", b"{", b"[" * 100_000):
            write_bundle(tmp_path / "m.edge", detector_manifest(), {**FILES, "report.json": text})
            with pytest.raises(BundleError, match=r"report\.json is not"):
                Bundle(tmp_path / "m.edge").report()

    def test_removed_between_opening_and_reading(self, path: Path) -> None:
        bundle = Bundle(path)
        path.unlink()
        with pytest.raises(BundleError, match="cannot be read"):
            bundle.read("model.onnx")

    def test_nothing_is_ever_written_by_reading(self, path: Path) -> None:
        refused(rewrite(path, [*entries(path), ("../evil", b"x")]), "unexpected")
        assert list(path.parent.iterdir()) == [path]


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_damage_is_a_bundle_error_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.edge"
    write_bundle(path, detector_manifest(), FILES)
    content = bytearray(path.read_bytes())
    # Headers and the table of contents are where damage is interesting; the payload has its own test.
    places = [i for i in range(len(content)) if not content.index(GRAPH) <= i < content.index(GRAPH) + len(GRAPH)]
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.sampled_from(places))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        read = read_all(path)
    except BundleError:
        return
    assert read == FILES


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Files of this process cannot grow beyond 1 kB. Not a fixture: the suite's own log must not meet the limit."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class TestWriting:
    def test_other_names_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"holds only .* got \['\.\./evil'\]"):
            write_bundle(tmp_path / "m.edge", detector_manifest(), {"../evil": b""})
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_that_does_not_exist(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"cannot write .*No such file or directory; nothing was left behind"):
            write_bundle(tmp_path / "none" / "m.edge", detector_manifest(), FILES)

    def test_a_target_that_is_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="Is a directory"):
            write_bundle(tmp_path, detector_manifest(), FILES)

    def test_a_full_disk_leaves_the_old_file_and_nothing_else(self, path: Path) -> None:
        before = path.read_bytes()
        message = r"cannot write .*File too large; nothing was left behind"
        with pytest.raises(BundleError, match=message), full_disk():
            write_bundle(path, detector_manifest(), {**FILES, "model.onnx": bytes(100_000)})
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]

    def test_a_full_disk_leaves_nothing_where_nothing_was(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="cannot write"), full_disk():
            write_bundle(tmp_path / "m.edge", detector_manifest(), {"model.onnx": bytes(100_000)})
        assert list(tmp_path.iterdir()) == []
